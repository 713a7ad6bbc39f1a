"""Metric names are made in one file, with prefix and unit."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from server.metrics import ControlMetrics, GatewayMetrics

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    path
    for package in ("server", "guard", "detectors", "tracing")
    for path in sorted((ROOT / package).rglob("*.py"))
    if path != ROOT / "server" / "metrics.py"
]
UNITS = (
    "_total",
    "_seconds",
    "_generation",
    "_targets",
    "_queued",
    "_documents",
    "_followers",
    "_info",
)


def _names() -> set[str]:
    exposed = ""
    for metrics in (GatewayMetrics, ControlMetrics):
        registry = CollectorRegistry()
        metrics(registry)
        exposed += generate_latest(registry).decode()
    names = set(re.findall(r"^# HELP (\S+)", exposed, flags=re.MULTILINE))
    # The library adds a time of creation to every counter and histogram.
    return {name for name in names if not name.endswith("_created")}


def test_prefix_and_unit() -> None:
    """Every metric has the product's prefix and says what it counts in."""
    names = _names()

    assert len(names) > 10
    assert all(name.startswith("lethegate_") and name.endswith(UNITS) for name in names)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_live_in_one_file(path: Path) -> None:
    """No other file names a metric or makes one."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    strings = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "prometheus_client"
        for alias in node.names
    }

    assert not strings & _names()
    assert not imported & {"Counter", "Gauge", "Histogram", "Summary", "Info", "Enum"}
