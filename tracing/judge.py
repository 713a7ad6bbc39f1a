"""TraceShield's judgement, word by word: may the text so far be given away?

At every word the longest match that ends there is one stateless search (`tracing.matching`). A
window of words is refused when it occurs verbatim in a watched corpus, has at least that corpus's
minimum of words, is rarer in nats per word than its threshold, does not occur more often than its
limit, and holds no window of the minimum length that an allowed corpus has. Windows of up to twice
the minimum are tried, which is enough (`tracing.bci.best_window`), so what is kept of a text is its
last few words, and the outcome does not depend on how the text was cut.

Shorter than the minimum, two things are refused: a run of words that is a whole registered document
and whose raw BCI exceeds the published threshold, and a whole text that occurs in a document, if it
is besides so rare that it must be a name, a number or a code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tracing.bci import PUBLISHED_TAU, Unigrams
from tracing.container import Array
from tracing.index import View
from tracing.matching import (
    Occurrence,
    Span,
    count_window,
    matched_lengths,
    occurrences,
    short_lengths,
    streamed_lengths,
    with_shorter,
)

# Nats per word of a short text that is taken for a secret: rarer than one word in a million.
SHORT_NATS = 14.0
_SOURCES = 5

Symbols = npt.NDArray[np.uint32]
Lengths = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Watched:
    """A corpus that answers are held against.

    Attributes:
        id: its name.
        label: why its documents are registered.
        view: its index.
        minimum: shortest window in words.
        threshold: nats per word that a window must exceed.
        max_frequency: a window that occurs more often is boilerplate; None: no limit.
    """

    id: str
    label: str
    view: View
    minimum: int
    threshold: float
    max_frequency: int | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """A window that may not be given away; `start` and `end` count the text's words.

    `start` is negative where the window begins in words that were known before.
    `nats` is its mean surprisal, `raw` the sum (the published BCI), `count` how often it occurs;
    `matched` is the length of the longest match that ends with it.
    """

    corpus: Watched
    start: int
    end: int
    nats: float
    raw: float
    count: int
    matched: int
    sources: tuple[Occurrence, ...]


@dataclass(frozen=True, slots=True)
class Judge:
    """Corpora to hold a text against, and what may be given away in spite of them."""

    watched: tuple[Watched, ...]
    allowed: tuple[View, ...]
    unigrams: Unigrams
    # Words that a judgement looks back.
    width: int = field(init=False)

    def __post_init__(self) -> None:
        width = max((2 * corpus.minimum - 1 for corpus in self.watched), default=1)
        object.__setattr__(self, "width", width)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What some new words led to.

    `refused` is the first window that may not be given away; words behind it were not judged.
    `held` is how many of the last words belong to a match that may still become too long.
    """

    refused: Finding | None
    held: int


# The last word of a match, its length, and whose it is.
_Candidate = tuple[int, int, Watched]


@dataclass(slots=True)
class Trail:
    """The judgement of one text that arrives in pieces; keeps its last words only.

    `count` is how many words there were, without known ones.
    """

    judge: Judge
    count: int = 0
    _symbols: Symbols = field(default_factory=lambda: np.empty(0, np.uint32))
    _nats: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0, np.float64))

    def copy(self) -> Trail:
        """A trail that goes on independently."""
        return Trail(self.judge, self.count, self._symbols, self._nats)

    def take(self, symbols: Symbols, words: Sequence[str], known: int = 0) -> Judgement:
        """Judge new words.

        Args:
            symbols: [k] uint32, of the word view.
            words: [k] folded words.
            known: how many of them, from the first on, stand before the text: its reader wrote
                them. A window that ends in one is not refused, one that only begins in one is.
        """
        old, new = len(self._symbols), len(symbols)
        if not new:
            return Judgement(None, 0)
        tail = np.concatenate([self._symbols, symbols]).astype(np.uint32)
        nats = np.concatenate([self._nats, self.judge.unigrams.surprisal(words)])
        rows, sizes = _rows(tail, old, self.judge.width)
        held = 0
        candidates: list[_Candidate] = []
        for corpus in self.judge.watched:
            lengths = streamed_lengths(corpus.view, rows, sizes, 1)
            held = max(held, min(int(lengths[-1]), corpus.minimum - 1))
            candidates += _candidates(corpus, tail, old, lengths)
        self.count -= known
        judged = [candidate for candidate in candidates if candidate[0] >= old + known]
        refused = self._first(judged, tail, nats, old)
        self.count += new
        keep = self.judge.width - 1
        self._symbols, self._nats = tail[-keep:] if keep else tail[:0], nats[-keep:]
        return Judgement(refused, held)

    def finish(self) -> Finding | None:
        """The text is complete: judge it as a whole if it is shorter than the minimum."""
        for corpus in self.judge.watched:
            if not 0 < self.count < corpus.minimum:
                continue
            length = int(matched_lengths(corpus.view, self._symbols, self.count)[-1])
            raw = float(self._nats[-self.count :].sum())
            rare = raw > PUBLISHED_TAU and raw / self.count > max(SHORT_NATS, corpus.threshold)
            if length == self.count and rare and not self._is_allowed(self._symbols, length):
                return self._finding(corpus, self._symbols, self.count, length, raw, length)
        return None

    def windows(self, symbols: Symbols, words: Sequence[str]) -> list[tuple[int, int]]:
        """Every window of a whole text that the first corpus refuses, as word ranges, by end."""
        corpus = self.judge.watched[0]
        nats = self.judge.unigrams.surprisal(words)
        lengths = matched_lengths(corpus.view, symbols, min(corpus.minimum, max(1, len(symbols))))
        found = []
        for end, length, _ in sorted(_candidates(corpus, symbols, 0, lengths), key=_place):
            refused = self._refused(corpus, symbols, nats, end, length)
            if refused is not None:
                found.append((end + 1 - refused[0], end + 1))
        return found

    def best(self, symbols: Symbols, words: Sequence[str]) -> float:
        """The score of a whole text against the first corpus, for calibrating its threshold.

        Nats per word of the best window of at least the minimum; minus infinity if none matches.
        """
        corpus = self.judge.watched[0]
        nats = self.judge.unigrams.surprisal(words)
        lengths = matched_lengths(corpus.view, symbols, corpus.minimum)
        best = float("-inf")
        for end in np.flatnonzero(lengths).tolist():
            found = self._window(corpus, symbols, nats, end, int(lengths[end]))
            best = max(best, found[1] if found is not None else best)
        return best

    def _first(
        self,
        candidates: Sequence[_Candidate],
        tail: Symbols,
        nats: npt.NDArray[np.float64],
        old: int,
    ) -> Finding | None:
        for end, length, corpus in sorted(candidates, key=_place):
            found = self._refused(corpus, tail, nats, end, length)
            if found is not None:
                size, raw = found
                place = self.count + end - old + 1
                return self._finding(corpus, tail[: end + 1], place, size, raw, length)
        return None

    def _refused(
        self,
        corpus: Watched,
        text: Symbols,
        nats: npt.NDArray[np.float64],
        end: int,
        length: int,
    ) -> tuple[int, float] | None:
        """Size and raw BCI of the window that makes a match too long and too rare, if any does."""
        is_short = length < corpus.minimum
        window = (self._short if is_short else self._window)(corpus, text, nats, end, length)
        if window is None or window[1] <= corpus.threshold:
            return None
        return window[0], window[0] * window[1]

    def _window(
        self,
        corpus: Watched,
        text: Symbols,
        nats: npt.NDArray[np.float64],
        end: int,
        length: int,
    ) -> tuple[int, float] | None:
        """Size and score of the best window that ends at a place, if any may be refused."""
        longest = min(length, 2 * corpus.minimum - 1, end + 1)
        longest = min(longest, self._since_allowed(text[end + 1 - longest : end + 1], corpus))
        if longest < corpus.minimum:
            return None
        smallest = self._rare_from(corpus, text[: end + 1], longest)
        if smallest > longest:
            return None
        sums = np.cumsum(nats[end + 1 - longest : end + 1][::-1])
        means = sums[smallest - 1 :] / np.arange(smallest, longest + 1)
        best = int(means.argmax())
        return best + smallest, float(means[best])

    def _rare_from(self, corpus: Watched, text: Symbols, longest: int) -> int:
        """The smallest window that is not too frequent; they get rarer with their length."""
        low, high = corpus.minimum, longest + 1
        while corpus.max_frequency is not None and low < high:
            middle = (low + high) // 2
            if count_window(corpus.view, text, middle) > corpus.max_frequency:
                low = middle + 1
            else:
                high = middle
        return low

    def _since_allowed(self, words: Symbols, corpus: Watched) -> int:
        """Words at the end that hold no allowed window of the minimum length."""
        free = -1
        for view in self.judge.allowed:
            places = np.flatnonzero(matched_lengths(view, words, corpus.minimum))
            free = max(free, int(places[-1]) if len(places) else -1)
        return len(words) if free < 0 else len(words) - 2 - free + corpus.minimum

    def _short(
        self,
        corpus: Watched,
        text: Symbols,
        nats: npt.NDArray[np.float64],
        end: int,
        length: int,
    ) -> tuple[int, float] | None:
        raw = float(nats[end + 1 - length : end + 1].sum())
        words = text[end + 1 - length : end + 1]
        if raw <= PUBLISHED_TAU or self._is_allowed(words, length):
            return None
        return length, raw / length

    def _is_allowed(self, words: Symbols, length: int) -> bool:
        return any(
            int(matched_lengths(view, words, length)[-1]) >= length for view in self.judge.allowed
        )

    def _finding(
        self, corpus: Watched, text: Symbols, place: int, size: int, raw: float, matched: int
    ) -> Finding:
        window = np.ascontiguousarray(text[-size:])
        count = count_window(corpus.view, window, size)
        sources = tuple(occurrences(corpus.view, window, Span(0, size, count), _SOURCES))
        return Finding(corpus, place - size, place, raw / size, raw, count, matched, sources)


def _candidates(corpus: Watched, text: Symbols, old: int, lengths: Lengths) -> list[_Candidate]:
    """The matches at new places that have to be judged; `lengths` [k] of the new places."""
    found = np.flatnonzero(lengths >= corpus.minimum)
    candidates = [(old + i, int(lengths[i]), corpus) for i in found.tolist()]
    if not with_shorter(corpus.view, corpus.minimum):
        return candidates
    short = short_lengths(corpus.view, text, corpus.minimum)
    ends = np.flatnonzero(short).tolist()
    return candidates + [(end, int(short[end]), corpus) for end in ends if end >= old]


def _place(candidate: _Candidate) -> tuple[int, int]:
    return candidate[:2]


def _rows(tail: Symbols, old: int, width: int) -> tuple[Array, Array]:
    """The last `width` words at each new place, [k, width], and how many of them there are."""
    new = len(tail) - old
    if new == 1:
        # As a stream comes: one word at a time.
        row = np.zeros((1, width), np.uint32)
        row[0, width - min(width, len(tail)) :] = tail[-width:]
        return row, np.array([min(width, len(tail))], np.int64)
    padded = np.concatenate([np.zeros(max(0, width - 1 - old), np.uint32), tail])
    rows = np.ascontiguousarray(np.lib.stride_tricks.sliding_window_view(padded, width))
    sizes = np.minimum(np.arange(old + 1, len(tail) + 1), width)
    return rows, sizes.astype(np.int64)
