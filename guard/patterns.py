"""Phrases as the token automaton reads them: many byte strings in flat arrays, sorted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from detectors.normaliser import REPLACEMENT, fold, is_word_char
from detectors.targets import Phrase
from guard import compile_kernels as kernels
from guard.errors import CompileError
from guard.stream import WORD_START, streams

Int64 = npt.NDArray[np.int64]

_PART = 4096


@dataclass(frozen=True, slots=True)
class Patterns:
    """The patterns of n phrases.

    Attributes:
        bytes: [total] uint8 and start [n + 1] int64, the folded streams (`guard.stream`); one
            begins with WORD_START if its phrase must start a word.
        ends_word: [n] bool, whether the phrase counts only if the word ends with it.
    """

    bytes: npt.NDArray[np.uint8]
    start: Int64
    ends_word: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.ends_word)

    def __add__(self, other: Patterns) -> Patterns:
        """These, then the others."""
        return Patterns.joined([self, other])

    @classmethod
    def joined(cls, parts: Sequence[Patterns]) -> Patterns:
        """All of them, one part after the other."""
        lengths = np.concatenate([np.diff(part.start) for part in parts])
        return cls(
            np.concatenate([part.bytes for part in parts]),
            np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
            np.concatenate([part.ends_word for part in parts]),
        )

    @property
    def longest(self) -> int:
        """Bytes of the longest one; 0 where there is none."""
        return int(np.diff(self.start).max(initial=0))

    def also_within_words(self, chosen: npt.NDArray[np.bool_]) -> Patterns:
        """The same, but the chosen [n] count however the word goes on behind them."""
        return replace(self, ends_word=self.ends_word & ~chosen)

    def distinct(self) -> tuple[Patterns, npt.NDArray[np.int32]]:
        """Each pattern once, sorted by bytes, and [n] int32 the place of each of these in there."""
        order, same = _sorted(self)
        places = np.empty(len(order), np.int32)
        places[order] = np.cumsum(~same) - 1
        kept = order[~same]
        start = np.zeros(len(kept) + 1, np.int64)
        np.cumsum(np.diff(self.start)[kept], out=start[1:])
        flat = np.empty(int(start[-1]), np.uint8)
        kernels.gather(self.bytes, self.start, kept, start, flat)
        return Patterns(flat, start, self.ends_word[kept]), places


def patterns_of(phrases: Sequence[Phrase]) -> Patterns:
    """The pattern of each phrase.

    Raises:
        CompileError: nothing is left of a phrase when it is folded.
    """
    # In parts whose intermediate arrays stay in the caches.
    firsts = range(0, max(len(phrases), 1), _PART)
    return Patterns.joined([_patterns(phrases[first : first + _PART]) for first in firsts])


def _patterns(phrases: Sequence[Phrase]) -> Patterns:
    folded = [fold(phrase.text).strip() for phrase in phrases]
    if any(not text or REPLACEMENT in text for text in folded):
        raise CompileError("a phrase has no characters that can be matched")
    found = streams(folded)
    whole = np.fromiter((phrase.whole_word for phrase in phrases), np.bool_, len(folded))
    ends = np.fromiter((is_word_char(text[-1]) for text in folded), np.bool_, len(folded))
    flat = Patterns(found.bytes, found.start, ends & whole)
    return flat if whole.all() else _without_first_border(flat, ~whole)


def index_phrases(phrases: Sequence[Phrase]) -> tuple[Patterns, npt.NDArray[np.int32]]:
    """Distinct patterns in table order, and for each phrase the id of its pattern, [phrases].

    Raises:
        CompileError: nothing is left of a phrase when it is folded.
    """
    return patterns_of(phrases).distinct()


def _without_first_border(patterns: Patterns, chosen: npt.NDArray[np.bool_]) -> Patterns:
    """Take the leading WORD_START off the chosen patterns that have one."""
    first = patterns.start[:-1]
    gone = first[chosen & (patterns.bytes[first] == WORD_START)]
    start = patterns.start - np.searchsorted(gone, patterns.start)
    return Patterns(np.delete(patterns.bytes, gone), start, patterns.ends_word)


def _sorted(patterns: Patterns) -> tuple[Int64, npt.NDArray[np.bool_]]:
    """The patterns' order, and [n] whether each in that order equals the one before it.

    Eight bytes at a time, most significant first; what those decide is not looked at again.
    """
    count = len(patterns)
    packed = np.empty(count, np.uint64)
    kernels.pack(*_flat(patterns), np.arange(count), 0, packed)
    order = np.argsort(packed, kind="stable")
    same = np.zeros(count, np.bool_)
    same[1:] = packed[order[1:]] == packed[order[:-1]]
    tied, depth = _groups(same), 0
    longest = patterns.longest + 2
    while len(tied) and 8 * (depth := depth + 1) < longest:
        members = order[tied]
        packed = np.empty(len(members), np.uint64)
        kernels.pack(*_flat(patterns), members, depth, packed)
        group = np.cumsum(~same[tied])
        within = np.lexsort((packed, group))
        order[tied] = members[within]
        packed = packed[within]
        again = np.zeros(len(tied), np.bool_)
        again[1:] = (packed[1:] == packed[:-1]) & (group[1:] == group[:-1])
        same[tied] = again
        tied = tied[_groups(again)]
    return order, same


def _groups(same: npt.NDArray[np.bool_]) -> Int64:
    """The places of all that are like a neighbour of theirs."""
    alike = same.copy()
    alike[:-1] |= same[1:]
    return np.flatnonzero(alike)


def _flat(patterns: Patterns) -> tuple[npt.NDArray[np.uint8], Int64, npt.NDArray[np.bool_]]:
    return patterns.bytes, patterns.start, patterns.ends_word
