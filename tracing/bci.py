"""BCI, the rarity of a span by its words: as published, and over its best window.

TraceAlign (arXiv 2508.02063) scores a span by `BCI(s) = -sum over t in s of ln P(t)`, P a unigram
frequency, 1e-9 for what is not in the table, and refuses above tau = 20 nats. Two things follow
from the formula. Every eight words of ordinary text exceed 20, so that with windows of eight the
exact match decides and tau does nothing. And a mean over a whole span hides its rare core; any part
of a match is a match too, so what is scored here is the best window of at least the minimum length,
in nats per word, against a threshold calibrated on benign text. Unigrams have to come from a
background corpus: in the registered documents themselves a registered name is common.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import floor, log

import numpy as np
import numpy.typing as npt

from tracing.errors import CalibrationTooSmall

PUBLISHED_TAU = 20.0
UNSEEN = 1e-9

Nats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class BestWindow:
    """Words start .. end (exclusive) of what was scored; `nats` is their mean surprisal."""

    start: int
    end: int
    nats: float


class Unigrams:
    """Surprisal of words under a background corpus.

    `frequency` gives a folded word's share of a corpus, 0 where it does not occur.
    """

    def __init__(self, frequency: Callable[[str], float]) -> None:
        self._of = lru_cache(maxsize=1 << 16)(lambda word: -log(max(frequency(word), UNSEEN)))

    def surprisal(self, words: Sequence[str]) -> Nats:
        """-ln P of each word, [n] float64."""
        return np.array([self._of(word) for word in words], np.float64)


def raw_bci(surprisal: Nats) -> float:
    """The published score of a span, in nats: the sum over its words' surprisal, [n]."""
    return float(surprisal.sum())


def best_window(surprisal: Nats, minimum: int) -> BestWindow:
    """The window of at least `minimum` words with the highest mean of their surprisal, [n].

    A span that is shorter is scored as a whole. No window longer than 2 * minimum - 1 needs to be
    tried: it could be cut in two of which one has at least the mean.
    """
    n = len(surprisal)
    if n <= minimum:
        return BestWindow(0, n, float(surprisal.mean()) if n else 0.0)
    total = np.concatenate([[0.0], np.cumsum(surprisal)])
    best = BestWindow(0, n, -1.0)
    for size in range(max(1, minimum), min(n, 2 * minimum - 1) + 1):
        means = (total[size:] - total[:-size]) / size
        start = int(means.argmax())
        if means[start] > best.nats:
            best = BestWindow(start, start + size, float(means[start]))
    return best


@dataclass(frozen=True, slots=True)
class Calibration:
    """A threshold: what scores above `threshold` is refused.

    A new benign text scores above it with a chance of at most `rate`, if it is exchangeable with
    the `num_texts` that it was calibrated on, of which `num_above` do.
    """

    threshold: float
    rate: float
    num_texts: int
    num_above: int


def calibrate(scores: Iterable[float], rate: float) -> Calibration:
    """The lowest threshold for a false-positive rate, from one score per benign text.

    A text without any match scores minus infinity. Split conformal: of n texts the
    (floor(rate * (n + 1)))-th largest score is the threshold, which bounds the chance for the next
    text and not merely the share among these.

    Raises:
        CalibrationTooSmall: fewer than 1 / rate - 1 texts.
        ValueError: the rate is not between 0 and 1.
    """
    if not 0 < rate < 1:
        raise ValueError(f"the rate must be between 0 and 1, got {rate}")
    ordered = np.sort(np.fromiter(scores, np.float64))[::-1]
    allowed = floor(rate * (len(ordered) + 1))
    if allowed < 1:
        raise CalibrationTooSmall(f"{len(ordered)} texts do not tell a rate of {rate}")
    threshold = float(ordered[min(allowed, len(ordered)) - 1])
    above = int((ordered > threshold).sum())
    return Calibration(threshold, rate, len(ordered), above)
