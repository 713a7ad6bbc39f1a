"""Draw dashboards as SVG from what a Prometheus holds, for documents.

    .venv/bin/python deploy/grafana/pictures.py http://127.0.0.1:9090 overview latency

These are no screenshots of Grafana: same queries, same order, plainer lines. One file per dashboard
named is written to `pictures/`.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
POINTS = 60
UNIT_WIDTH, UNIT_HEIGHT, GAP = 38, 22, 6
COLOURS = ("#1f77b4", "#d9730d", "#2e8b57", "#b5338a", "#7a5fd0", "#8a6d3b", "#c0392b", "#557788")
# Readable on light and dark pages.
STYLE = (
    "text{font:11px sans-serif;fill:#222}.t{font-weight:bold}.v{font-size:22px}.s{fill:#666}"
    "rect{fill:#fff;stroke:#ccc}polyline{fill:none;stroke-width:1.5}polygon{fill-opacity:.35}"
)


@dataclass(frozen=True)
class Line:
    """One series: its legend, and a value per point of time (None where there is none)."""

    legend: str
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class Window:
    """What is asked for: the Prometheus, and the time up to its end, in seconds."""

    url: str
    end: float
    seconds: float

    def lines(self, panel: Mapping[str, Any]) -> list[Line]:
        """All series of a panel that hold a number, the order of its queries kept."""
        found = []
        for query in panel["targets"]:
            for series in self._ask(query["expr"]):
                legend = _legend(query.get("legendFormat", ""), series["metric"])
                line = Line(legend, self._aligned(series["values"]))
                if any(value is not None for value in line.values):
                    found.append(line)
        return found

    def _ask(self, expression: str) -> list[Any]:
        rate = f"{max(15, math.ceil(4 * self.seconds / POINTS))}s"
        filled = expression.replace("$__rate_interval", rate).replace("$instance", ".*")
        asked = {
            "query": filled,
            "start": str(self.end - self.seconds),
            "end": str(self.end),
            "step": str(self.seconds / POINTS),
        }
        url = f"{self.url}/api/v1/query_range?{urllib.parse.urlencode(asked)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            result: list[Any] = json.load(answer)["data"]["result"]
        return result

    def _aligned(self, values: Sequence[tuple[float, str]]) -> tuple[float | None, ...]:
        placed: list[float | None] = [None] * (POINTS + 1)
        for when, text in values:
            value = float(text)
            place = round((when - self.end + self.seconds) * POINTS / self.seconds)
            if math.isfinite(value) and 0 <= place <= POINTS:
                placed[place] = value
        return tuple(placed)


def draw(board: Mapping[str, Any], window: Window) -> str:
    """A dashboard as an SVG document."""
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"])
    size = f'viewBox="0 0 {24 * UNIT_WIDTH} {height * UNIT_HEIGHT}"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{STYLE}</style>']
    parts.append(f"<title>{escape(board['title'])}</title>")
    for panel in board["panels"]:
        parts += _panel(panel, window.lines(panel))
    return "\n".join([*parts, "</svg>\n"])


def _panel(panel: Mapping[str, Any], lines: Sequence[Line]) -> Iterator[str]:
    place = panel["gridPos"]
    left, top = place["x"] * UNIT_WIDTH + GAP / 2, place["y"] * UNIT_HEIGHT + GAP / 2
    width, height = place["w"] * UNIT_WIDTH - GAP, place["h"] * UNIT_HEIGHT - GAP
    unit = panel["fieldConfig"]["defaults"].get("unit", "short")
    yield f'<g transform="translate({left:g},{top:g})"><rect width="{width}" height="{height}"/>'
    yield f'<text class="t" x="8" y="16">{escape(panel["title"])}</text>'
    if panel["type"] == "stat":
        newest = [value for line in lines for value in line.values if value is not None]
        shown = _shown(newest[-1], unit) if newest else "no data"
        yield f'<text class="v" x="8" y="{height - 22}">{shown}</text>'
    else:
        stacked = "stacking" in panel["fieldConfig"]["defaults"].get("custom", {})
        yield from _graph(lines, width, height, unit, stacked=stacked)
    yield "</g>"


def _graph(
    lines: Sequence[Line], width: int, height: int, unit: str, *, stacked: bool
) -> Iterator[str]:
    """Axis with its largest value, the lines, and a legend of those that are not all zero."""
    tops = _stacked(lines) if stacked else lines
    largest = max((value or 0 for line in tops for value in line.values), default=0) or 1
    left, right, top, bottom = 8, width - 8, 40, height - 24
    below = [f"{right:g},{bottom:g}", f"{left:g},{bottom:g}"]
    yield f'<text class="s" x="8" y="33">{_shown(largest, unit)}</text>'
    floor: Sequence[float | None] = [0.0] * (POINTS + 1)

    def points(values: Sequence[float | None]) -> list[str]:
        return [
            f"{left + (right - left) * at / POINTS:.0f},{bottom - scale * value:.1f}"
            for at, value in enumerate(values)
            if value is not None
        ]

    scale = (bottom - top) / largest
    for number, line in enumerate(tops):
        colour = COLOURS[number % len(COLOURS)]
        if stacked:
            area = " ".join([*points(line.values), *reversed(points(floor))])
            yield f'<polygon fill="{colour}" points="{area}"/>'
            floor = line.values
        yield f'<polyline stroke="{colour}" points="{" ".join(points(line.values))}"/>'
    yield f'<polyline stroke="#999" points="{" ".join(below)}"/>'
    x = 8
    for number, line in enumerate(lines):
        if any(line.values) and x < width - 60:
            colour = COLOURS[number % len(COLOURS)]
            fill = f'style="fill:{colour}"'
            yield f'<text x="{x}" y="{height - 8}" {fill}>{escape(line.legend)}</text>'
            x += 14 + 6 * len(line.legend)


def _stacked(lines: Sequence[Line]) -> list[Line]:
    sums: list[Line] = []
    below: Sequence[float | None] = [0.0] * (POINTS + 1)
    for line in lines:
        pairs = zip(line.values, below, strict=True)
        below = [(value or 0) + (under or 0) for value, under in pairs]
        sums.append(Line(line.legend, tuple(below)))
    return sums


def _legend(form: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), form)


def _shown(value: float, unit: str) -> str:
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit == "s":
        return f"{1000 * value:.3g} ms" if value < 1 else f"{value:.3g} s"
    return f"{value:.3g}{' /s' if unit in ('reqps', 'ops') else ''}"


def main() -> None:
    """Draw the dashboards named on the command line."""
    parser = argparse.ArgumentParser(description="Draw dashboards from what a Prometheus holds.")
    parser.add_argument("url", help="Prometheus's address")
    parser.add_argument("boards", nargs="+", help="names of files in dashboards/")
    parser.add_argument("--seconds", type=float, default=120, help="length of the time shown")
    parser.add_argument("--folder", type=Path, default=FOLDER / "pictures")
    asked = parser.parse_args()
    window = Window(asked.url.rstrip("/"), time.time(), asked.seconds)
    asked.folder.mkdir(exist_ok=True)
    for name in asked.boards:
        board = json.loads((FOLDER / "dashboards" / f"{name}.json").read_text(encoding="utf-8"))
        (asked.folder / f"{name}.svg").write_text(draw(board, window), encoding="utf-8")


if __name__ == "__main__":
    main()
