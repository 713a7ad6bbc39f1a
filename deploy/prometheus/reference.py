"""Write METRICS.md, the table of all metrics, from the code that makes them.

.venv/bin/python deploy/prometheus/reference.py
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from prometheus_client import CollectorRegistry

from server.metrics.control import ControlMetrics
from server.metrics.gateway import GatewayMetrics
from server.metrics.targets import TargetMetrics
from server.policy import FollowerStatus
from server.statistics.counts import TargetCounts

PAGE = Path(__file__).resolve().parents[1] / "METRICS.md"
_HEAD = """# Metrics

Written by `prometheus/reference.py`; a test compares. vLLM's own (`vllm:...`) are beside the
server's. No label names a user or a text, and none a target but those of the last table, which are
told to auditors' keys only, of at most `target_series` targets.
"""
# Some metrics have labels only where somebody follows the policy.
_FOLLOWERS = (FollowerStatus("gateway", 1, 1, ""), FollowerStatus("worker", 2, 1, ""))
_PLACES: dict[str, Callable[[CollectorRegistry], object]] = {
    "The server's `/metrics`, port 8000": GatewayMetrics,
    "The control process's `/metrics`, admin port": lambda registry: ControlMetrics(
        registry, lambda: _FOLLOWERS
    ),
    "There, with an auditor's key": lambda registry: TargetMetrics(
        registry, lambda: {"id": TargetCounts()}, 1
    ),
}


def page() -> str:
    """The whole page, in Markdown."""
    parts = [_HEAD]
    for place, metrics in _PLACES.items():
        registry = CollectorRegistry()
        metrics(registry)
        parts += [f"\n## {place}\n", "| metric | kind | labels | meaning |", "|---|---|---|---|"]
        parts += _rows(registry)
    return "\n".join(parts) + "\n"


def _rows(registry: CollectorRegistry) -> list[str]:
    labels = _labels(registry)
    return sorted(
        f"| `{_shown(metric.name, metric.type)}` | {metric.type} "
        f"| {', '.join(labels[metric.name]) or 'none'} | {metric.documentation} |"
        for metric in registry.collect()
    )


def _labels(registry: CollectorRegistry) -> dict[str, tuple[str, ...]]:
    """Labels by metric: as declared, or where they are made at each scrape as they come."""
    found: dict[str, tuple[str, ...]] = {}
    for collector in registry._collector_to_names:
        for metric in collector.collect():
            scraped = metric.samples[0].labels if metric.samples else {}
            made = getattr(metric, "_labelnames", ()) or scraped
            found[metric.name] = tuple(getattr(collector, "_labelnames", made))
    return found


def _shown(name: str, kind: str) -> str:
    return f"{name}_total" if kind == "counter" else name


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
