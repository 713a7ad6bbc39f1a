"""Figures: the arithmetic from answers to what a bench states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from server.bench.answers import Answer


@dataclass(frozen=True, slots=True)
class ArmFigures:
    """One arm of one round. `events_per_token` below 1 means that tokens arrived in bunches."""

    tokens_per_second: float
    ttft_ms_p50: float
    ttft_ms_p99: float
    inter_token_ms_p50: float
    inter_token_ms_p99: float
    events_per_token: float
    cut_share: float


def arm_figures(answers: Sequence[Answer]) -> ArmFigures:
    """The figures of an arm without failures.

    Throughput counts from the first request sent to the last answer complete; the time between
    tokens is that between two neighbouring events with text of the same answer.
    """
    seconds = max(a.ended for a in answers) - min(a.sent for a in answers)
    first = [1000 * answer.first_token_seconds for answer in answers if answer.arrivals]
    gaps = [1000 * (end - begin) for answer in answers for begin, end in answer.gaps]
    tokens = sum(answer.tokens for answer in answers)
    cut = sum(answer.finish_reason == "content_filter" for answer in answers)
    return ArmFigures(
        tokens_per_second=tokens / seconds,
        ttft_ms_p50=_percentile(first, 50),
        ttft_ms_p99=_percentile(first, 99),
        inter_token_ms_p50=_percentile(gaps, 50),
        inter_token_ms_p99=_percentile(gaps, 99),
        events_per_token=sum(len(answer.arrivals) for answer in answers) / tokens,
        cut_share=cut / len(answers),
    )


def spread(key: str, values: Sequence[float], digits: int = 4) -> dict[str, float]:
    """The median under `key`, and the extremes under `key_min` and `key_max`."""
    found = {key: median(values), f"{key}_min": min(values), f"{key}_max": max(values)}
    return {name: round(value, digits) for name, value in found.items()}


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time, in `time.perf_counter` seconds.

    `machine_share` is the share of it in which the machine was running (`MachineTime`).
    """

    begin: float
    end: float
    machine_share: float = 1.0

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end - self.begin

    def meets(self, begin: float, end: float) -> bool:
        """Whether something that lasted from `begin` to `end` was going on in it."""
        return begin < self.end and end > self.begin


def longest_gap_ms(answers: Sequence[Answer], window: Window) -> float:
    """The longest wait between two neighbouring events of one answer that met the window; 0: none.

    A wait counts in full even where it began before the window: whoever waited, waited all of it.
    """
    gaps = (gap for answer in answers for gap in answer.gaps if window.meets(*gap))
    return max((1000 * (end - begin) for begin, end in gaps), default=0.0)


def longest_ttft_ms(answers: Sequence[Answer], window: Window) -> float:
    """The longest wait for a first token that met the window; 0 where there was none."""
    waits = [a for a in answers if a.arrivals and window.meets(a.sent, a.arrivals[0])]
    return max((1000 * answer.first_token_seconds for answer in waits), default=0.0)


def failed_requests(answers: Sequence[Answer], window: Window) -> int:
    """How many of the requests that were running in the window failed."""
    return sum(bool(a.failure) for a in answers if window.meets(a.sent, a.ended))


def _percentile(values: Sequence[float], percent: float) -> float:
    return float(np.percentile(values, percent)) if values else 0.0
