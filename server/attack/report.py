"""The report of an attack: counts and case ids, no text of a request, an answer or a phrase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import httpx

from server.attack.judge import Outcome, Result

_AXES = ("kind", "encoding", "api", "shape")
_JUDGES = {
    "checks": "The server told for each case which phrases were switched on.",
    "phrases": "The server was not asked which phrases were switched on.",
}
_CAUSES = {
    True: ": it was switched on, and broke through",
    False: ": it was not switched on, for the guard had not found what is asked",
    None: "",
}


def figures(
    target: str, results: Sequence[Result], control: Sequence[Result] | None, *, asked: bool
) -> dict[str, Any]:
    """What is reported. `control` is the same cases against a server without the guard.

    `asked`: the server told for each case what it had switched on. Without that nobody knows
    whether an emission broke through, which is then null.
    """
    counts = {f"num_{o.value}": sum(r.outcome is o for r in results) for o in Outcome}
    report: dict[str, Any] = {"target": target, "judge": "checks" if asked else "phrases"}
    report |= {"num_cases": len(results), **counts}
    if asked:
        report["num_broke_through"] = sum(r.broke_through for r in results)
        answered = (r for r in results if r.status == httpx.codes.OK)
        report["num_unchecked"] = sum(r.active is None for r in answered)
    report["emitted_cases"] = [
        {
            "case": r.case.id,
            "surfaces": list(r.surfaces),
            "broke_through": None if r.active is None else r.broke_through,
        }
        for r in results
        if r.outcome is Outcome.EMITTED
    ]
    report["touched_cases"] = [r.case.id for r in results if r.outcome is Outcome.TOUCHED]
    report["failed_cases"] = [
        {"case": r.case.id, "status": r.status} for r in results if r.outcome is Outcome.FAILED
    ]
    if control is not None:
        report["num_emitted_by_control"] = sum(r.outcome is Outcome.EMITTED for r in control)
        report["control_emitted_cases"] = [
            r.case.id for r in control if r.outcome is Outcome.EMITTED
        ]
    for axis in _AXES:
        report[f"by_{axis}"] = _by(axis, results, control)
    return report


def write_html(path: Path, report: Mapping[str, Any]) -> None:
    """A page that an operator can keep, complete in itself."""
    rows = [
        f"<tr><td>{escape(axis)}<td>{escape(name)}<td>{c['cases']}<td>{c['emitted']}"
        f"<td>{c.get('control_emitted', '')}</tr>"
        for axis in _AXES
        for name, c in report[f"by_{axis}"].items()
    ]
    leaks = [
        f"<li><code>{escape(c['case'])}</code> ({escape(', '.join(c['surfaces']))})"
        f"{_CAUSES[c['broke_through']]}"
        for c in report["emitted_cases"]
    ]
    facts = [
        f"<tr><td>{escape(key.replace('num_', '').replace('_', ' '))}<td>{value}</tr>"
        for key, value in report.items()
        if key.startswith("num_")
    ]
    page = f"""<!doctype html><html lang="en"><meta charset="utf-8">
<title>Attack on {escape(report["target"])}</title>
<style>body{{font:16px sans-serif;max-width:50em;margin:2em auto}}td,th{{padding:.2em 1em;
text-align:left;border-bottom:1px solid #ccc}}table{{border-collapse:collapse}}</style>
<h1>Attack on {escape(report["target"])}</h1><p>{_JUDGES[report["judge"]]}
<table>{"".join(facts)}</table>
<h2>Emissions</h2><ul>{"".join(leaks) or "<li>none"}</ul>
<h2>Cases</h2><table><tr><th>axis<th>value<th>cases<th>emitted<th>emitted without the guard</tr>
{"".join(rows)}</table></html>
"""
    path.write_text(page, encoding="utf-8")


def _by(
    axis: str, results: Sequence[Result], control: Sequence[Result] | None
) -> dict[str, dict[str, int]]:
    table: dict[str, dict[str, int]] = {}
    for place, result in enumerate(results):
        row = table.setdefault(getattr(result.case, axis), {"cases": 0, "emitted": 0})
        row["cases"] += 1
        row["emitted"] += result.outcome is Outcome.EMITTED
        if control is not None:
            leaked = control[place].outcome is Outcome.EMITTED
            row["control_emitted"] = row.get("control_emitted", 0) + leaked
    return table
