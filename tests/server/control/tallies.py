"""What gateways of the tests counted, written short: how often each target was found."""

from __future__ import annotations

from server.statistics.counts import RequestCounts, TargetCounts
from server.statistics.tally import Tallied


def counted(**matched: int) -> Tallied:
    """What a gateway counted: how often each target was found, in twice as many requests."""
    targets = {name: TargetCounts(matched=n, steered=n) for name, n in matched.items()}
    return Tallied(RequestCounts(requests=2 * sum(matched.values())), targets)


def found(tallied: Tallied) -> dict[str, int]:
    """How often each target was found."""
    return {name: counts.matched for name, counts in tallied.targets.items()}
