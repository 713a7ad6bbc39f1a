"""A corpus's threshold: calibrated on benign texts, for a stated false-positive rate.

Each text is scored as an answer would be; the threshold is the score that no more than the stated
share of new benign texts exceeds (split conformal, `tracing.bci.calibrate`). A text that matches
nowhere scores minus infinity, so a corpus that no benign text matches has the threshold 0: every
match of the minimum length counts.

That holds for new texts that are like those it was calibrated on. Beside the shipped ones, which
are about anything, those are the operator's `retain` corpora: where what must pass is written from
the same templates as what is registered, only texts of that form tell. The highest threshold that
any of the samples asks for counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import ceil

from detectors.benign import benign_answers
from guard.background import background, word_view
from tracing.bci import calibrate
from tracing.index import View
from tracing.judge import Judge, Trail, Watched
from tracing.words import Words

_CORPORA_KEPT = 16
SAMPLE = 500  # documents of a retain corpus that are scored

_words: dict[str, tuple[int, tuple[Words, ...]]] = {}


def calibrated(
    view: View,
    allowed: Sequence[View],
    minimum: int,
    max_frequency: int | None,
    rate: float,
    retained: Sequence[Sequence[Words]] = (),
) -> float:
    """Nats per word that a window must exceed to be refused.

    `retained` are further samples of benign texts; one of fewer than 1 / rate - 1 does not count.
    """
    watched = Watched("", "", view, minimum, float("-inf"), max_frequency)
    judge = Judge((watched,), tuple(allowed), background())
    samples = [_benign(), *(texts for texts in retained if len(texts) >= ceil(1 / rate) - 1)]
    found = []
    for texts in samples:
        scores = (Trail(judge).best(words.symbols, words.folded) for words in texts)
        found.append(calibrate(scores, rate).threshold)
    return max(0.0, *found)


def retained_words(directory: str, view: View) -> tuple[Words, ...]:
    """The words of a retain corpus's documents, of `SAMPLE` spread over it where it has more."""
    known = _words.get(directory)
    if known is None or known[0] != view.generation:
        numbers = view.live_ids()
        step = max(1, ceil(len(numbers) / SAMPLE))
        texts = (view.document(number).text for number in numbers[::step])
        if len(_words) >= _CORPORA_KEPT:
            _words.clear()
        known = _words[directory] = (view.generation, tuple(map(word_view().words, texts)))
    return known[1]


@lru_cache(maxsize=1)
def _benign() -> tuple[Words, ...]:
    return tuple(word_view().words(text) for text in benign_answers())
