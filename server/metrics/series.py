"""Series that exist from the start."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version
from itertools import product

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


def begin(metric: Counter | Histogram, *labels: Iterable[str]) -> None:
    """Make a series for every combination of labels."""
    for values in product(*labels):
        metric.labels(*map(str, values))


def tell_build(registry: CollectorRegistry) -> None:
    """Tell which version runs."""
    # Not an Info: the library keeps none when several processes share a registry.
    build = Gauge(
        "lethegate_build_info",
        "Always 1; the label tells the version.",
        ["version"],
        registry=registry,
        multiprocess_mode="max",
    )
    build.labels(version("lethegate")).set(1)
