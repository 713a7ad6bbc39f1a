"""A corpus's threshold: calibrated on the shipped benign texts, for a stated false-positive rate.

Each text is scored as an answer would be; the threshold is the score that no more than the stated
share of new benign texts exceeds (split conformal, `tracing.bci.calibrate`). A text that matches
nowhere scores minus infinity, so a corpus that no benign text matches has the threshold 0: every
match of the minimum length counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from detectors.benign import benign_answers
from guard.background import background, word_view
from tracing.bci import calibrate
from tracing.index import View
from tracing.judge import Judge, Trail, Watched
from tracing.words import Words


def calibrated(
    view: View, allowed: Sequence[View], minimum: int, max_frequency: int | None, rate: float
) -> float:
    """Nats per word that a window must exceed to be refused."""
    watched = Watched("", "", view, minimum, float("-inf"), max_frequency)
    judge = Judge((watched,), tuple(allowed), background())
    scores = (Trail(judge).best(words.symbols, words.folded) for words in _benign())
    return max(0.0, calibrate(scores, rate).threshold)


@lru_cache(maxsize=1)
def _benign() -> tuple[Words, ...]:
    return tuple(word_view().words(text) for text in benign_answers())
