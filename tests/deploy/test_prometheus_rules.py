"""Alert and recording rules: valid, unit-tested by promtool, and each with its page."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
JOBS = ["lethegate", "lethegate-control"]
RULES = sorted((PROMETHEUS / "rules").glob("*.yml"))
UNIT_TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="promtool is not installed (on Debian: apt-get install prometheus)",
)


def alerts():
    found = []
    for path in RULES:
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]:
            found += [rule for rule in group["rules"] if "alert" in rule]
    return found


def promtool(*arguments):
    command = ["promtool", *arguments]
    done = subprocess.run(command, cwd=PROMETHEUS, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@needs_promtool
def test_configuration_and_rules_are_valid():
    """By the judgement of Prometheus's own tool; the configuration names the rules."""
    # Syntax only: the scrape key is where compose puts it, not here.
    configurations = ("prometheus.yml", "loopback.yml", "nodes.yml")
    checks = [("config", "--syntax-only", *configurations), ("rules", *map(str, RULES))]
    for command in checks:
        status, said = promtool("check", *command)

        assert status == 0, said
    for name in configurations:
        shipped = yaml.safe_load((PROMETHEUS / name).read_text(encoding="utf-8"))
        (pattern,) = shipped["rule_files"]
        assert sorted(PROMETHEUS.glob(pattern)) == RULES
        assert [job["job_name"] for job in shipped["scrape_configs"]] == JOBS


@needs_promtool
@pytest.mark.parametrize("path", UNIT_TESTS, ids=lambda path: path.stem)
def test_rules_pass_their_unit_tests(path):
    """Every fault raises its alert, a healthy server none."""
    status, said = promtool("test", "rules", str(path))

    assert status == 0, said


def test_every_alert_is_unit_tested():
    """An alert that was never seen to fire may be one that cannot."""
    tested = {
        case["alertname"]
        for path in UNIT_TESTS
        for test in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]
        for case in test.get("alert_rule_test", ())
        if case["exp_alerts"]
    }

    assert tested == {rule["alert"] for rule in alerts()}


def test_every_alert_has_a_severity_a_sentence_and_a_page():
    """The runbook has a heading for each alert, and none for an alert that is gone."""
    runbook = (DEPLOY / "RUNBOOK.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (\w+)\n\n\*(\w+)\.\*", runbook, flags=re.MULTILINE))

    assert sections == {rule["alert"]: rule["labels"]["severity"] for rule in alerts()}
    for rule in alerts():
        assert rule["annotations"]["summary"]
        page = f"deploy/RUNBOOK.md#{rule['alert'].lower()}"
        assert rule["annotations"]["runbook_url"] == page
