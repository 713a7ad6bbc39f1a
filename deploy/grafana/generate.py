"""Write the dashboards to `dashboards/`, as Grafana's provisioning reads them.

.venv/bin/python deploy/grafana/generate.py
"""

from __future__ import annotations

from pathlib import Path

from board import Board
from boards.decisions import DECISIONS
from boards.faults import FAULTS
from boards.latency import LATENCY
from boards.outputs import OUTPUTS
from boards.overview import OVERVIEW
from boards.policy import POLICY
from boards.provenance import PROVENANCE
from boards.targets import TARGETS
from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    VariableRefresh,
)
from panels import PROMETHEUS

FOLDER = Path(__file__).resolve().parent / "dashboards"
_TAG = "lethegate"
BOARDS = (OVERVIEW, DECISIONS, LATENCY, OUTPUTS, PROVENANCE, TARGETS, POLICY, FAULTS)


def main() -> None:
    """Write all of them; what is no longer described is deleted."""
    for path in FOLDER.glob("*.json"):
        path.unlink()
    for name, text in rendered().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


def rendered() -> dict[str, str]:
    """File name -> JSON of every dashboard."""
    encoder = JSONEncoder(sort_keys=True, indent=1, ensure_ascii=False)
    return {f"{board.name}.json": f"{encoder.encode(_build(board))}\n" for board in BOARDS}


def _build(board: Board) -> object:
    built = dashboard.Dashboard(board.title).uid(f"lethegate-{board.name}")
    built = built.description(board.description).tags([_TAG]).refresh("10s").readonly()
    built = built.time("now-1h", "now").timezone("browser").tooltip(DashboardCursorSync.CROSSHAIR)
    others = dashboard.DashboardLink("Lethegate").type(DashboardLinkType.DASHBOARDS)
    others = others.tags([_TAG]).as_dropdown(True).include_vars(True).keep_time(True)
    built = built.link(others)
    for variable in (_datasource(), _instance()):
        built = built.with_variable(variable)
    for number, panel in enumerate(board.panels, start=1):
        built = built.with_panel(panel.id(number))
    return built.build()


def _datasource() -> dashboard.DatasourceVariable:
    return dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus")


def _instance() -> dashboard.QueryVariable:
    variable = dashboard.QueryVariable("instance").label("Server").datasource(PROMETHEUS)
    query = "label_values(lethegate_policy_generation, instance)"
    variable = variable.query({"query": query, "refId": "instance"}).multi(True)
    return variable.include_all(True).all_value(".*").refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)


if __name__ == "__main__":
    main()
