"""Metric names are made in one package, with prefix and unit."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from server.metrics.control import ControlMetrics
from server.metrics.gateway import GatewayMetrics
from server.metrics.targets import TargetMetrics

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    path
    for package in ("server", "guard", "detectors", "tracing")
    for path in sorted((ROOT / package).rglob("*.py"))
    if path.parent != ROOT / "server" / "metrics"
]
DEPLOYED = [
    *sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json")),
    *sorted((ROOT / "deploy" / "prometheus" / "rules").glob("*.yml")),
]
DOCUMENTED = [
    ROOT / "README.md",
    *sorted((ROOT / "docs" / "pages").rglob("*.md")),
    *(ROOT / "deploy" / name for name in ("README.md", "RUNBOOK.md", "METRICS.md")),
]
UNIT_TESTS = sorted((ROOT / "deploy" / "prometheus" / "tests").glob("*.yml"))
# A file's name in the scrape configuration, and the prefix of all.
NO_METRICS = {"lethegate_scrape_key"}
UNITS = (
    "_total",
    "_seconds",
    "_generation",
    "_generation_lag",
    "_nodes",
    "_targets",
    "_queued",
    "_documents",
    "_followers",
    "_info",
)


def _names() -> set[str]:
    exposed = ""
    for metrics in (GatewayMetrics, ControlMetrics, TargetMetrics):
        registry = CollectorRegistry()
        metrics(registry)
        exposed += generate_latest(registry).decode()
    names = set(re.findall(r"^# HELP (\S+)", exposed, flags=re.MULTILINE))
    # The library adds a time of creation to every counter and histogram.
    return {name for name in names if not name.endswith("_created")}


def _mentioned(path: Path) -> set[str]:
    """Metrics that a file names, histograms' series by the histogram's name."""
    text = path.read_text(encoding="utf-8")
    # A recording rule's name has a metric's between colons, and is none itself.
    found = re.findall(r"(?<![\w:.-])lethegate_[a-z0-9_]+(?![\w:.])", text)
    series = r"(?<=_seconds)_(bucket|sum|count)$"
    return {re.sub(series, "", name) for name in found} - NO_METRICS


def test_prefix_and_unit() -> None:
    """Every metric has the product's prefix and says what it counts in."""
    names = _names()

    assert len(names) > 10
    assert all(name.startswith("lethegate_") and name.endswith(UNITS) for name in names)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_live_in_one_package(path: Path) -> None:
    """Nothing else names a metric or makes one."""
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


@pytest.mark.parametrize(
    "path", [*DEPLOYED, *UNIT_TESTS, *DOCUMENTED], ids=lambda path: str(path.relative_to(ROOT))
)
def test_whoever_names_a_metric_names_one_that_exists(path: Path) -> None:
    """Dashboards, rules and documents go with the code: a renamed metric would show nothing."""
    assert _mentioned(path) - _names() == set()


def test_every_metric_is_shown_somewhere() -> None:
    """What is counted and never looked at need not be counted."""
    shown = set().union(*map(_mentioned, DEPLOYED))

    assert _names() - shown == set()


def test_the_reference_is_what_the_code_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else run deploy/prometheus/reference.py again."""
    monkeypatch.syspath_prepend(ROOT / "deploy" / "prometheus")
    page = importlib.import_module("reference").page()

    assert (ROOT / "deploy" / "METRICS.md").read_text(encoding="utf-8") == page
    assert _mentioned(ROOT / "deploy" / "METRICS.md") == _names()
