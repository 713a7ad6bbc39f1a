"""How the nodes stand, told by the control process that leads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_FENCED = "fenced"
NODE_STATES = ("current", "behind", "silent", _FENCED)


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """A node as the leading control process sees it; see `server.nodes.fleet`.

    `state` is one of `NODE_STATES`.
    """

    id: str
    lag: int
    seen_seconds: float
    state: str


class NodeCollector(Collector):
    """Tells at every scrape how the nodes stand; their ids are the operator's, and bounded."""

    def __init__(self, nodes: Callable[[], Sequence[NodeFacts]]) -> None:
        self._nodes = nodes

    def describe(self) -> Iterable[Metric]:
        """The metrics' names."""
        return _families(())

    def collect(self) -> Iterable[Metric]:
        """The metrics with their values of now."""
        return _families(self._nodes())


def _families(nodes: Sequence[NodeFacts]) -> Iterator[Metric]:
    lag = GaugeMetricFamily(
        "lethegate_node_generation_lag",
        "Generations that the last process of a node is behind the policy in force.",
        labels=["node"],
    )
    seen = GaugeMetricFamily(
        "lethegate_node_last_seen_seconds",
        "Time since a node's last report.",
        labels=["node"],
    )
    fenced = GaugeMetricFamily("lethegate_fenced_nodes", "Nodes that may not serve.")
    standing = GaugeMetricFamily(
        "lethegate_nodes", "Nodes that have not left, by how they stand.", labels=["state"]
    )
    for node in nodes:
        if node.state != _FENCED:
            lag.add_metric([node.id], node.lag)
        seen.add_metric([node.id], node.seen_seconds)
    states = [node.state for node in nodes]
    for state in NODE_STATES:
        standing.add_metric([state], states.count(state))
    fenced.add_metric([], states.count(_FENCED))
    yield from (lag, seen, fenced, standing)
