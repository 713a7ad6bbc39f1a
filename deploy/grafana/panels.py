"""Panels as the boards describe them, and the queries that recur in them."""

from __future__ import annotations

from collections.abc import Mapping

from grafana_foundation_sdk.builders import common, prometheus, stat, timeseries
from grafana_foundation_sdk.models.common import (
    BigValueGraphMode,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
)
from grafana_foundation_sdk.models.dashboard import DataSourceRef

PROMETHEUS = DataSourceRef(type_val="prometheus", uid="${datasource}")
# Of the guarded servers; the control process is scraped at another address.
CHOSEN = 'instance=~"$instance"'
_LEFT_AXIS_FROM_ZERO = 0.0


def rate(name: str, *labels: str, where: str = "") -> str:
    """Events per second of a server's counter, summed over all labels but those given."""
    selector = f"{name}{{{CHOSEN}{',' if where else ''}{where}}}"
    by = f" by ({', '.join(labels)})" if labels else ""
    return f"sum{by} (rate({selector}[$__rate_interval]))"


def mean(name: str, *labels: str, where: str = "") -> str:
    """Mean of what a server's histogram observed."""
    total = rate(f"{name}_sum", *labels, where=where)
    return f"{total} / {rate(f'{name}_count', *labels, where=where)}"


def quantile(q: float, name: str, *labels: str, where: str = "") -> str:
    """A quantile of what a server's histogram observed, as fine as its buckets."""
    return f"histogram_quantile({q}, {rate(f'{name}_bucket', 'le', *labels, where=where)})"


def graph(
    title: str,
    description: str,
    queries: Mapping[str, str],
    unit: str = "short",
    *,
    stacked: bool = False,
    width: int = 12,
) -> timeseries.Panel:
    """Lines over time; `queries` maps each one's legend to its expression."""
    panel = timeseries.Panel().title(title).description(description).unit(unit)
    panel = panel.datasource(PROMETHEUS).span(width).height(8).line_width(1)
    panel = panel.axis_soft_min(_LEFT_AXIS_FROM_ZERO).fill_opacity(25 if stacked else 5)
    legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).show_legend(True)
    panel = panel.legend(legend.placement(LegendPlacement.BOTTOM).calcs([]))
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL).group("A"))
    for place, (label, expression) in enumerate(queries.items()):
        panel = panel.with_target(_query(place, expression).legend_format(label))
    return panel


def number(title: str, description: str, query: str, unit: str = "short") -> stat.Panel:
    """The newest value, large; a sixth of a row wide."""
    panel = stat.Panel().title(title).description(description).unit(unit)
    panel = panel.datasource(PROMETHEUS).span(4).height(4).graph_mode(BigValueGraphMode.AREA)
    reduce = common.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False)
    return panel.reduce_options(reduce).with_target(_query(0, query))


def _query(place: int, expression: str) -> prometheus.Dataquery:
    query = prometheus.Dataquery().expr(expression).ref_id(chr(ord("A") + place))
    return query.datasource(PROMETHEUS).range()
