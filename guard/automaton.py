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

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from guard import compile_kernels as kernels
from guard.patterns import Patterns
from guard.vocabulary import Vocabulary

Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Tables:
    """The automaton's arrays. S states, P phrases, E entries, I pairs.

    What a step reads of one state, or of one entry, lies side by side in memory.

    Attributes:
        nodes: [S + 1, 4] int32, columns `first_child`, `fail`, `entry_state`, `entry_start`; the
            last row only closes the row pointers.
        label: [S] uint8, the symbol on the way into a state.
        out_state: [S] int32, nearest suffix state, itself first, where a phrase ends; 0 for none.
        phrase_open: [S] int32, the phrase that ends here if the word ends too; -1 for none.
        phrase_any: [S] int32, the phrase that ends here however the text goes on; -1 for none.
        entries: [E, 3] int32, columns `entry_phrase`, `entry_low`, `entry_high`.
        inside_start: [P + 1] int32 and inside_token [I] int32, tokens that hold phrase p.
        initial: [P, 2] int32, range of the order that begins with phrase p.
        longest: [1] int32, bytes of the longest pattern.
    """

    nodes: Int32
    label: npt.NDArray[np.uint8]
    out_state: Int32
    phrase_open: Int32
    phrase_any: Int32
    entries: Int32
    inside_start: Int32
    inside_token: Int32
    initial: Int32
    longest: Int32

    @property
    def first_child(self) -> Int32:
        """[S + 1], children of s are first_child[s] .. first_child[s + 1]."""
        return self.nodes[:, 0]

    @property
    def fail(self) -> Int32:
        """Aho-Corasick failure links."""
        return self.nodes[:, 1]

    @property
    def entry_state(self) -> Int32:
        """Nearest suffix state, itself first, that has entries; 0 for none."""
        return self.nodes[:, 2]

    @property
    def entry_start(self) -> Int32:
        """[S + 1], entries of s are entry_start[s] .. entry_start[s + 1]."""
        return self.nodes[:, 3]

    @property
    def entry_phrase(self) -> Int32:
        """[E], the phrase that is completed."""
        return self.entries[:, 0]

    @property
    def entry_low(self) -> Int32:
        """[E], first place in the vocabulary's order that completes it."""
        return self.entries[:, 1]

    @property
    def entry_high(self) -> Int32:
        """[E], one behind the last such place."""
        return self.entries[:, 2]

    @property
    def num_phrases(self) -> int:
        """P."""
        return int(self.initial.shape[0])

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """The arrays by name, for storage."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def plain(self) -> Tables:
        """The same memory as plain read-only arrays.

        Compiled loops take these several times faster than memory-mapped ones, and have one type to
        be compiled for.
        """
        views = {name: np.asarray(array).view() for name, array in self.arrays().items()}
        for view in views.values():
            view.flags.writeable = False
        return Tables.load(views)

    @classmethod
    def load(cls, arrays: Mapping[str, npt.NDArray[np.generic]]) -> Tables:
        """The inverse of `arrays`."""
        return cls(**{f.name: arrays[f.name] for f in fields(cls)})  # type: ignore[arg-type]


def build_tables(patterns: Patterns, vocabulary: Vocabulary) -> Tables:
    """Compile distinct, sorted patterns (`Patterns.distinct`) against a vocabulary."""
    trie = _Trie(patterns)
    whole = patterns.ends_word
    phrase_open = np.full(trie.num_states, -1, np.int32)
    phrase_any = np.full(trie.num_states, -1, np.int32)
    phrases = np.arange(len(patterns), dtype=np.int32)
    phrase_open[trie.end[whole]] = phrases[whole]
    phrase_any[trie.end[~whole]] = phrases[~whole]
    out_state = np.zeros(trie.num_states, np.int32)
    ends = ((phrase_open >= 0) | (phrase_any >= 0)).astype(np.uint8)
    nodes = np.zeros((trie.num_states + 1, 4), np.int32)
    nodes[:, 0] = trie.first_child
    kernels.build_links(nodes[:, 0], trie.label, trie.parent, ends, nodes[:, 1], out_state)
    entry_state, entries = _entries(patterns, trie, vocabulary)
    nodes[:, 3] = _starts(entry_state, trie.num_states)
    kernels.nearest(nodes[:, 1], np.diff(nodes[:, 3]) > 0, nodes[:, 2])
    links = (nodes[:, 0], trie.label, nodes[:, 1], out_state, phrase_open, phrase_any)
    inside_start, inside_token = _inside(links, len(patterns), vocabulary)
    return Tables(
        nodes,
        trie.label,
        out_state,
        phrase_open,
        phrase_any,
        entries,
        inside_start,
        inside_token,
        _initial(patterns, vocabulary),
        np.array([patterns.longest], np.int32),
    )


class _Trie:
    """The trie of sorted byte strings, states in breadth-first order.

    `end` [n] are the states of the patterns; `depths` counts the root's too.
    """

    def __init__(self, patterns: Patterns) -> None:
        counts = np.zeros(patterns.longest + 1, np.int64)
        kernels.count_states(patterns.bytes, patterns.start, counts)
        self.num_states = int(counts.sum())
        self.label = np.zeros(self.num_states, np.uint8)
        self.parent = np.zeros(self.num_states, np.int32)
        self.end = np.zeros(len(patterns), np.int32)
        self.depths = len(counts)
        next_state = np.cumsum(counts) - counts
        kernels.build_trie(
            patterns.bytes, patterns.start, self.label, self.parent, self.end, next_state
        )
        # The root is its own parent in the array, so it is left out; children begin behind it.
        self.first_child = _starts(self.parent[1:], self.num_states)
        self.first_child += 1


def _entries(patterns: Patterns, trie: _Trie, vocabulary: Vocabulary) -> tuple[Int32, Int32]:
    """The state of every entry, ascending, and the entries."""
    body, depths = vocabulary.ordered, np.zeros(0, np.int64)

    def fill(out: Int32) -> Any:
        nonlocal depths
        depths = np.zeros(trie.depths, np.int64)
        return kernels.build_entries(
            patterns.bytes,
            patterns.start,
            patterns.ends_word,
            trie.end,
            trie.parent,
            body.bytes,
            body.start,
            _heads(vocabulary),
            depths,
            out,
        )

    found = _grow(fill, 8 * len(patterns), 5)
    states, entries = np.empty(len(found), np.int32), np.empty((len(found), 3), np.int32)
    kernels.order_entries(found, np.cumsum(depths) - depths, states, entries)
    return states, entries


def _inside(
    links: tuple[npt.NDArray[np.generic], ...], num_phrases: int, vocabulary: Vocabulary
) -> tuple[Int32, Int32]:
    body = vocabulary.ordered

    def fill(out: Int32) -> Any:
        return kernels.find_inside(
            *links, body.bytes, body.start, vocabulary.order, out[:, 0], out[:, 1]
        )

    pairs = _grow(fill, num_phrases, 2).astype(np.int64)
    distinct = np.unique(pairs[:, 0] << 32 | pairs[:, 1])
    return _starts(distinct >> 32, num_phrases), (distinct & 0xFFFFFFFF).astype(np.int32)


def _initial(patterns: Patterns, vocabulary: Vocabulary) -> Int32:
    body = vocabulary.ordered
    ranges = np.zeros((len(patterns), 2), np.int32)
    kernels.build_initial(
        patterns.bytes,
        patterns.start,
        patterns.ends_word,
        body.bytes,
        body.start,
        _heads(vocabulary),
        ranges,
    )
    return ranges


def _heads(vocabulary: Vocabulary) -> npt.NDArray[np.int64]:
    """[65537], the first place in the order whose body is not less than two given bytes."""
    body = vocabulary.ordered
    heads = np.empty((1 << 16) + 1, np.int64)
    kernels.find_heads(body.bytes, body.start, heads)
    return heads


def _grow(fill: Callable[[Int32], Any], room: int, width: int) -> Int32:
    """Run a kernel that reports how much room it needs, again if it had too little."""
    out = np.empty((max(room, 1), width), np.int32)
    count = fill(out)
    if count > out.shape[0]:
        out = np.empty((count, width), np.int32)
        fill(out)
    return out[:count]


def _starts(keys: npt.NDArray[np.integer[Any]], size: int) -> Int32:
    """Row pointers [size + 1] of a list of sorted keys."""
    starts = np.empty(size + 1, np.int32)
    kernels.row_starts(keys, starts)
    return starts
