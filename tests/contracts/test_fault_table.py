"""What the documentation says of every fault exists: its metric, its alert and its test."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from server.metrics.control import ControlMetrics
from server.metrics.gateway import GatewayMetrics

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "pages" / "operations" / "faults.md"
RULES = ROOT / "deploy" / "prometheus" / "rules" / "alerts.yml"


def _rows() -> list[list[str]]:
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if row[0] not in ("what fails", "---")]


@pytest.mark.parametrize("row", _rows(), ids=lambda row: row[0])
def test_a_fault_has_a_metric_an_alert_and_a_test(row: list[str]) -> None:
    """All by name; a counter that is told is one that exists, and its alert looks at it."""
    _fault, answer, told, alert, test = row
    registry = CollectorRegistry()
    GatewayMetrics(registry), ControlMetrics(CollectorRegistry())
    exposed = generate_latest(registry).decode()
    control = CollectorRegistry()
    ControlMetrics(control)
    exposed += generate_latest(control).decode()
    rules = {
        rule["alert"]: rule["expr"]
        for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
        for rule in group["rules"]
    }
    metrics = re.findall(r"`(lethegate_\w+|up)`", told)
    path, name = test.strip("`").split("::")

    assert answer
    assert metrics
    assert all(metric == "up" or f"# HELP {metric} " in exposed for metric in metrics)
    assert any(metric in rules[alert] for metric in metrics)
    assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8")
