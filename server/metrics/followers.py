"""Who follows the policy, told by the control process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from server.policy import FollowerStatus

# What `FollowerStatus.kind` may be.
_KINDS = ("gateway", "worker", "node")


class FollowerCollector(Collector):
    """Tells at every scrape which generation the live gateways and workers have acknowledged."""

    def __init__(self, followers: Callable[[], Sequence[FollowerStatus]]) -> None:
        self._followers = followers

    def describe(self) -> Iterable[Metric]:
        """The metrics' names."""
        return _families(())

    def collect(self) -> Iterable[Metric]:
        """The metrics with their values of now."""
        return _families(self._followers())


def _families(followers: Sequence[FollowerStatus]) -> Iterator[Metric]:
    live = GaugeMetricFamily(
        "lethegate_live_followers", "Live gateways and workers.", labels=["kind"]
    )
    refusing = GaugeMetricFamily(
        "lethegate_refusing_followers",
        "Live gateways and workers that could not load a newer policy than they apply.",
        labels=["kind"],
    )
    oldest = GaugeMetricFamily(
        "lethegate_acknowledged_generation",
        "Lowest generation that a live gateway or worker applies; 0 before its first.",
        labels=["kind"],
    )
    for kind in _KINDS:
        those = [follower for follower in followers if follower.kind == kind]
        live.add_metric([kind], len(those))
        newer = [f for f in those if (f.failed_generation or 0) > (f.generation or 0)]
        refusing.add_metric([kind], len(newer))
        if those:
            oldest.add_metric([kind], min(follower.generation or 0 for follower in those))
    yield from (live, refusing, oldest)
