"""The token automaton: which tokens would complete a forbidden phrase, for every spelling of it.

Phrases are folded streams (`guard.stream`) in one Aho-Corasick trie; a row's state is the longest
suffix of its text that begins a phrase. Because a vocabulary sorted by folded bodies puts all
tokens that begin with the same bytes next to each other, "the tokens that complete phrase p from
here" is one range of it. So a state stores ranges, not tokens and not transitions:

* `entries`: per state, (phrase, low, high) ranges of `Vocabulary.order`; about one per character
  near a phrase's end, none where no token is long enough to finish it.
* `inside`: tokens that hold a whole phrase, forbidden wherever they stand.
* `initial`: the range of tokens that begin with a whole phrase, forbidden unless a word goes on.

Size and compile time grow linearly with the phrases. The arrays are read-only and memory-mappable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from detectors.normaliser import REPLACEMENT, fold, is_word_char
from detectors.targets import Phrase
from guard import kernels
from guard.errors import CompileError
from guard.stream import WORD_START, stream
from guard.vocabulary import Vocabulary

Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Pattern:
    """A phrase as the automaton reads it.

    `stream` begins with WORD_START if the phrase must start a word; `ends_word` says that it counts
    only if the word ends with it.
    """

    stream: bytes
    ends_word: bool


def pattern_of(phrase: Phrase) -> Pattern:
    """The pattern of a phrase.

    Raises:
        CompileError: nothing is left of the phrase when it is folded.
    """
    folded = fold(phrase.text).strip()
    if not folded or REPLACEMENT in folded:
        raise CompileError("a phrase has no characters that can be matched")
    whole = stream(folded)
    if not phrase.whole_word and whole[0] == WORD_START:
        whole = whole[1:]
    return Pattern(whole, phrase.whole_word and is_word_char(folded[-1]))


@dataclass(frozen=True, slots=True)
class Tables:
    """The automaton's arrays. S states, P phrases, E entries, I pairs.

    Attributes:
        first_child: [S + 1] int32, children of s are first_child[s] .. first_child[s + 1].
        label: [S] uint8, the symbol on the way into a state.
        fail: [S] int32, Aho-Corasick failure links.
        out_state: [S] int32, nearest suffix state, itself first, where a phrase ends; 0 for none.
        phrase_open: [S] int32, the phrase that ends here if the word ends too; -1 for none.
        phrase_any: [S] int32, the phrase that ends here however the text goes on; -1 for none.
        entry_state: [S] int32, nearest suffix state, itself first, that has entries; 0 for none.
        entry_start: [S + 1] int32, entries of state s.
        entry_phrase, entry_low, entry_high: [E] int32.
        inside_start: [P + 1] int32 and inside_token [I] int32, tokens that hold phrase p.
        initial: [P, 2] int32, range of the order that begins with phrase p.
        longest: [1] int32, bytes of the longest pattern.
    """

    first_child: Int32
    label: npt.NDArray[np.uint8]
    fail: Int32
    out_state: Int32
    phrase_open: Int32
    phrase_any: Int32
    entry_state: Int32
    entry_start: Int32
    entry_phrase: Int32
    entry_low: Int32
    entry_high: Int32
    inside_start: Int32
    inside_token: Int32
    initial: Int32
    longest: Int32

    @property
    def num_phrases(self) -> int:
        """P."""
        return int(self.initial.shape[0])

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """The arrays by name, for storage."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def load(cls, arrays: Mapping[str, npt.NDArray[np.generic]]) -> Tables:
        """The inverse of `arrays`."""
        return cls(**{f.name: arrays[f.name] for f in fields(cls)})  # type: ignore[arg-type]


def index_phrases(phrases: Iterable[Phrase]) -> tuple[list[Pattern], list[int]]:
    """Distinct patterns in table order, and for each phrase the id of its pattern."""
    patterns = [pattern_of(phrase) for phrase in phrases]
    distinct = sorted(set(patterns), key=lambda p: (p.stream, p.ends_word))
    ids = {pattern: i for i, pattern in enumerate(distinct)}
    return distinct, [ids[pattern] for pattern in patterns]


def build_tables(patterns: Sequence[Pattern], vocabulary: Vocabulary) -> Tables:
    """Compile distinct, sorted patterns (`index_phrases`) against a vocabulary."""
    trie = _Trie(sorted({p.stream for p in patterns}))
    phrase_open = np.full(trie.num_states, -1, np.int32)
    phrase_any = np.full(trie.num_states, -1, np.int32)
    states = np.array([trie.end[p.stream] for p in patterns], np.int32)
    for phrase, pattern in enumerate(patterns):
        (phrase_open if pattern.ends_word else phrase_any)[states[phrase]] = phrase
    fail = np.zeros(trie.num_states, np.int32)
    out_state = np.zeros(trie.num_states, np.int32)
    ends = ((phrase_open >= 0) | (phrase_any >= 0)).astype(np.uint8)
    kernels.build_links(trie.first_child, trie.label, trie.parent, ends, fail, out_state)
    entries = _entries(patterns, states, trie.parent, vocabulary)
    entry_start = _starts(entries[:, 0], trie.num_states)
    entry_state = np.zeros(trie.num_states, np.int32)
    kernels.nearest(fail, np.diff(entry_start) > 0, entry_state)
    links = (trie.first_child, trie.label, fail, out_state, phrase_open, phrase_any)
    inside_start, inside_token = _inside(links, len(patterns), vocabulary)
    return Tables(
        *links[:4],
        phrase_open=phrase_open,
        phrase_any=phrase_any,
        entry_state=entry_state,
        entry_start=entry_start,
        entry_phrase=np.ascontiguousarray(entries[:, 1]),
        entry_low=np.ascontiguousarray(entries[:, 2]),
        entry_high=np.ascontiguousarray(entries[:, 3]),
        inside_start=inside_start,
        inside_token=inside_token,
        initial=_initial(patterns, vocabulary),
        longest=np.array([max((len(p.stream) for p in patterns), default=0)], np.int32),
    )


class _Trie:
    """The trie of sorted, distinct byte strings, states in breadth-first order."""

    def __init__(self, streams: Sequence[bytes]) -> None:
        flat, start = _flatten(streams)
        counts = np.zeros(max((len(s) for s in streams), default=0) + 1, np.int64)
        kernels.count_states(flat, start, counts)
        self.num_states = int(counts.sum())
        self.label = np.zeros(self.num_states, np.uint8)
        self.parent = np.zeros(self.num_states, np.int32)
        end = np.zeros(len(streams), np.int32)
        depth_start = np.cumsum(counts) - counts
        kernels.build_trie(flat, start, self.label, self.parent, end, depth_start)
        self.end = dict(zip(streams, end.tolist(), strict=True))
        # The root is its own parent in the array, so it is left out; children begin behind it.
        self.first_child = _starts(self.parent[1:], self.num_states)
        self.first_child += 1


def _entries(
    patterns: Sequence[Pattern], states: Int32, parent: Int32, vocabulary: Vocabulary
) -> Int32:
    flat, start = _flatten([p.stream for p in patterns])
    whole = np.array([p.ends_word for p in patterns], np.bool_)
    body = vocabulary.ordered

    def fill(out: Int32) -> Any:
        return kernels.build_entries(
            flat, start, whole, states, parent, body.bytes, body.start, out
        )

    entries = _grow(fill, 16 * len(patterns), 4)
    in_order: Int32 = entries[np.argsort(entries[:, 0], kind="stable")]
    return in_order


def _inside(
    links: tuple[npt.NDArray[np.generic], ...], num_phrases: int, vocabulary: Vocabulary
) -> tuple[Int32, Int32]:
    body = vocabulary.ordered

    def fill(out: Int32) -> Any:
        return kernels.find_inside(
            *links, body.bytes, body.start, vocabulary.order, out[:, 0], out[:, 1]
        )

    pairs = np.unique(_grow(fill, 4 * num_phrases, 2), axis=0)
    return _starts(pairs[:, 0], num_phrases), np.ascontiguousarray(pairs[:, 1])


def _initial(patterns: Sequence[Pattern], vocabulary: Vocabulary) -> Int32:
    flat, start = _flatten([p.stream for p in patterns])
    body = vocabulary.ordered
    ranges = np.zeros((len(patterns), 2), np.int32)
    for p, pattern in enumerate(patterns):
        if pattern.stream[0] == WORD_START:
            low, high = start[p] + 1, start[p + 1]
            for side, cap in enumerate((0, 3 if pattern.ends_word else 256)):
                ranges[p, side] = kernels.bound(body.bytes, body.start, flat, low, high, -1, cap)
    return ranges


def _grow(fill: Callable[[Int32], Any], room: int, width: int) -> Int32:
    """Run a kernel that reports how much room it needs, again if it had too little."""
    out = np.empty((max(room, 1), width), np.int32)
    count = fill(out)
    if count > out.shape[0]:
        out = np.empty((count, width), np.int32)
        fill(out)
    return out[:count]


def _starts(keys: npt.NDArray[np.generic], size: int) -> Int32:
    """Row pointers [size + 1] of a list of sorted keys."""
    starts = np.zeros(size + 1, np.int32)
    np.cumsum(np.bincount(keys.astype(np.int64), minlength=size), out=starts[1:])
    return starts


def _flatten(streams: Sequence[bytes]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    lengths = np.fromiter((len(s) for s in streams), np.int64, len(streams))
    start = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    return np.frombuffer(b"".join(streams), np.uint8), start
