"""What single targets did, told by the control process to those who may list them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from server.metrics.labels import Stage
from server.statistics.counts import TargetCounts


class TargetMetrics:
    """What single targets did, by id: at the most `most` of them, so that series stay bounded.

    A target that is told stays told until it is withdrawn: a counter that comes and goes would look
    as if it had been reset. `sums` is read at every scrape. For a registry of its own, which only
    those may read who may list targets.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        sums: Callable[[], Mapping[str, TargetCounts]] = dict,
        most: int = 0,
    ) -> None:
        registry.register(_TargetCollector(sums, most))


class _TargetCollector(Collector):
    def __init__(self, sums: Callable[[], Mapping[str, TargetCounts]], most: int) -> None:
        self._sums, self._most = sums, most
        self._told: list[str] = []

    def describe(self) -> Iterable[Metric]:
        return _families({}, 0)

    def collect(self) -> Iterable[Metric]:
        sums = self._sums()
        told = [target for target in self._told if target in sums]
        others = sorted(sums.keys() - set(told), key=lambda t: (-sums[t].matched, t))
        self._told = told + others[: max(0, self._most - len(told))]
        shown = {target: sums[target] for target in self._told}
        return _families(shown, len(sums) - len(shown))


def _families(shown: Mapping[str, TargetCounts], untold: int) -> Iterator[Metric]:
    prompts = CounterMetricFamily(
        "lethegate_target_prompts_total",
        "Prompts in which the target was detected, by what followed or would have followed.",
        labels=["target", "outcome"],
    )
    answers = CounterMetricFamily(
        "lethegate_target_cut_answers_total",
        "Answers that were ended, or would have been, for what is the target's.",
        labels=["target", "outcome"],
    )
    prevented = CounterMetricFamily(
        "lethegate_target_prevented_steps_total",
        "Decode steps in which a phrase that had begun could not be completed; V1 runner only.",
        labels=["target"],
    )
    seconds = CounterMetricFamily(
        "lethegate_target_guard_seconds_total",
        "Time added to requests in which the target was detected, its share of it.",
        labels=["target", "stage"],
    )
    for target, counts in shown.items():
        for outcome in ("refused", "steered", "would_refuse", "would_steer"):
            prompts.add_metric([target, outcome], getattr(counts, outcome))
        answers.add_metric([target, "cut"], counts.cut)
        answers.add_metric([target, "would_cut"], counts.would_cut)
        prevented.add_metric([target], counts.prevented_steps)
        for stage, spent in (
            (Stage.SCREEN, counts.screen_seconds),
            (Stage.SHIELD, counts.shield_seconds),
        ):
            seconds.add_metric([target, stage.value], spent)
    yield from (prompts, answers, prevented, seconds)
    yield GaugeMetricFamily(
        "lethegate_untold_targets",
        "Targets of which something was counted and that have no series of their own.",
        value=untold,
    )
