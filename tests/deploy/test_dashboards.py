"""The dashboards: generated from their description, complete and without a target's name."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

GRAFANA = Path(__file__).resolve().parents[2] / "deploy" / "grafana"
FILES = sorted((GRAFANA / "dashboards").glob("*.json"))


@pytest.fixture(scope="module")
def rendered():
    """What the description gives now: file name -> text."""
    program = "import generate, json; print(json.dumps(generate.rendered()))"
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, cwd=GRAFANA, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_files_are_what_the_description_gives(rendered):
    """Else run deploy/grafana/generate.py again."""
    assert {path.name: path.read_text(encoding="utf-8") for path in FILES} == rendered


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_dashboard_is_complete(path):
    """It can be found and linked, and each panel says what it shows and asks the chosen source."""
    board = json.loads(path.read_text(encoding="utf-8"))
    numbers = [panel["id"] for panel in board["panels"]]

    assert board["uid"] == f"lethegate-{path.stem}"
    assert board["description"]
    assert {each["name"] for each in board["templating"]["list"]} == {"datasource", "instance"}
    assert len(set(numbers)) == len(numbers)
    for panel in board["panels"]:
        assert panel["title"]
        assert panel["description"]
        assert panel["datasource"]["uid"] == "${datasource}"
        references = [query["refId"] for query in panel["targets"]]
        assert len(set(references)) == len(references)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_panels_fill_the_grid_without_overlap(path):
    """No panel hides another or leaves the 24 units of a row."""
    taken = set()
    for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (place["x"] + column, place["y"] + line)
            for column in range(place["w"])
            for line in range(place["h"])
        }

        assert not taken & cells
        taken |= cells


def test_titles_and_names_are_unique():
    """Grafana would show one of two with the same uid."""
    boards = [json.loads(path.read_text(encoding="utf-8")) for path in FILES]

    assert len(boards) >= 6
    assert len({board["uid"] for board in boards}) == len(boards)
    assert len({board["title"] for board in boards}) == len(boards)


def test_provisioning_points_at_what_compose_mounts():
    """Grafana finds the dashboards and Prometheus where the provisioning files say."""
    (provider,) = yaml.safe_load(
        (GRAFANA / "provisioning/dashboards/lethegate.yaml").read_text(encoding="utf-8")
    )["providers"]
    (source,) = yaml.safe_load(
        (GRAFANA / "provisioning/datasources/prometheus.yaml").read_text(encoding="utf-8")
    )["datasources"]

    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"
    assert source["url"] == "http://prometheus:9090"


def test_pictures_in_the_documents_are_there():
    """Each is of a dashboard that exists."""
    text = (GRAFANA.parent / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"!\[\w+\]\(grafana/pictures/(\w+)\.svg\)", text)

    assert shown
    for name in shown:
        assert (GRAFANA / "pictures" / f"{name}.svg").exists()
        assert (GRAFANA / "dashboards" / f"{name}.json").exists()
