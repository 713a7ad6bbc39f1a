"""What the workers have counted, told by the gateway beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from server.metrics.labels import CLOSED_SLOT_REASONS, OTHER

VETOED_TOKENS = "lethegate_vetoed_tokens_total"
CLOSED_SLOTS = "lethegate_closed_slots_total"


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """Totals over all workers since their start, as read from their counters."""

    blocked_tokens: int = 0
    intercepted_steps: int = 0
    steered_steps: int = 0
    vetoed_tokens: int = 0
    subtracted_steps: int = 0
    closed_slots: Mapping[str, int] = field(default_factory=dict)
    snapshot_load_failures: int = 0
    # Of the machine, not of a worker; None beside a control process.
    node_lag_seconds: float | None = None


class WorkerCollector(Collector):
    """Turns the workers' facts into metrics at every scrape."""

    def __init__(self, facts: Callable[[], WorkerFacts]) -> None:
        self._facts = facts

    def describe(self) -> Iterable[Metric]:
        """The metrics' names."""
        return _families(WorkerFacts())

    def collect(self) -> Iterable[Metric]:
        """The metrics with their values of now."""
        return _families(self._facts())


def _families(facts: WorkerFacts) -> Iterator[Metric]:
    yield CounterMetricFamily(
        "lethegate_blocked_tokens_total",
        "Vocabulary entries forbidden because they would have completed a phrase, over all steps.",
        value=facts.blocked_tokens,
    )
    yield CounterMetricFamily(
        "lethegate_intercepted_steps_total",
        "Decode steps of a request in which a phrase that had begun could have been completed.",
        value=facts.intercepted_steps,
    )
    yield CounterMetricFamily(
        "lethegate_steered_steps_total",
        "Decode steps of steered requests.",
        value=facts.steered_steps,
    )
    yield CounterMetricFamily(
        VETOED_TOKENS,
        "Vocabulary entries forbidden because they would have continued a registered document.",
        value=facts.vetoed_tokens,
    )
    yield CounterMetricFamily(
        "lethegate_subtracted_steps_total",
        "Decode steps of a request from which an assistant's logits were subtracted.",
        value=facts.subtracted_steps,
    )
    closed = CounterMetricFamily(
        CLOSED_SLOTS,
        "Requests whose output was closed in the worker, by reason.",
        labels=["reason"],
    )
    totals = dict.fromkeys(sorted(CLOSED_SLOT_REASONS), 0)
    for reason, count in facts.closed_slots.items():
        known = reason if reason in CLOSED_SLOT_REASONS else OTHER
        totals[known] += count
    for reason, count in totals.items():
        closed.add_metric([reason], count)
    yield closed
    yield CounterMetricFamily(
        "lethegate_snapshot_load_failures_total",
        "Policy snapshots that a worker could not load.",
        value=facts.snapshot_load_failures,
    )
    lag = GaugeMetricFamily(
        "lethegate_node_lag_seconds",
        "Time since this node last knew that it applies what is in force; nodes only.",
    )
    if facts.node_lag_seconds is not None:
        lag.add_metric([], facts.node_lag_seconds)
    yield lag
