"""The compiler's inner loops: trie, links and the ranges of the vocabulary that finish phrases.

Compiled by numba like `guard.kernels`; array arguments are those of `guard.automaton.Tables` and
`guard.stream.Streams`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from guard.kernels import Array, jit, step
from guard.stream import WORD_END, WORD_START

_START = WORD_START
_END = WORD_END


@jit
def build_trie(
    patterns: Array, start: Array, label: Array, parent: Array, end: Array, depth_start: Array
) -> None:
    """Fill a trie in breadth-first order from sorted, distinct patterns.

    `depth_start` holds the first state id of every depth and is advanced in place; `end[p]`
    becomes the state of pattern p.
    """
    path = np.zeros(depth_start.shape[0] + 1, np.int64)
    for p in range(start.shape[0] - 1):
        length = start[p + 1] - start[p]
        shared = _shared(patterns, start, p)
        for depth in range(shared, length):
            state = depth_start[depth + 1]
            depth_start[depth + 1] += 1
            label[state] = patterns[start[p] + depth]
            parent[state] = path[depth]
            path[depth + 1] = state
        end[p] = path[length]


@jit
def count_states(patterns: Array, start: Array, counts: Array) -> None:
    """Number of trie states per depth, into `counts` [longest pattern + 1]."""
    counts[0] = 1
    for p in range(start.shape[0] - 1):
        for depth in range(_shared(patterns, start, p), start[p + 1] - start[p]):
            counts[depth + 1] += 1


@jit
def _shared(patterns: Array, start: Array, p: int) -> Any:
    """Length of the common prefix of pattern p and the one before it."""
    if p == 0:
        return 0
    length = min(start[p] - start[p - 1], start[p + 1] - start[p])
    for i in range(length):
        if patterns[start[p - 1] + i] != patterns[start[p] + i]:
            return i
    return length


@jit
def build_links(
    first_child: Array,
    label: Array,
    parent: Array,
    ends: Array,
    fail: Array,
    out_state: Array,
) -> None:
    """Failure links, and per state the nearest suffix state (itself first) where a phrase ends."""
    for state in range(1, parent.shape[0]):
        if parent[state]:
            fail[state] = step(first_child, label, fail, fail[parent[state]], label[state])
        out_state[state] = state if ends[state] else out_state[fail[state]]


@jit
def nearest(fail: Array, marked: Array, result: Array) -> None:
    """Per state the nearest suffix state, itself first, that is marked; else 0."""
    for state in range(1, marked.shape[0]):
        result[state] = state if marked[state] else result[fail[state]]


@jit
def find_inside(
    first_child: Array,
    label: Array,
    fail: Array,
    out_state: Array,
    phrase_open: Array,
    phrase_any: Array,
    body: Array,
    start: Array,
    order: Array,
    out_phrase: Array,
    out_token: Array,
) -> Any:
    """All (phrase, token) pairs where the phrase lies inside the token's body.

    Bodies begin without a word border, so a whole-word phrase at the very start is not found here
    (`initial` ranges cover it). A pair may be written twice. Returns the number of pairs; see
    `build_entries` for what happens when there is no room.
    """
    count = 0
    room = out_phrase.shape[0]
    for i in range(order.shape[0]):
        state = 0
        for k in range(start[i], start[i + 1]):
            state = step(first_child, label, fail, state, body[k])
            border = k + 1 == start[i + 1] or body[k + 1] == _END
            found = out_state[state]
            while found:
                if phrase_any[found] >= 0:
                    if count < room:
                        out_phrase[count] = phrase_any[found]
                        out_token[count] = order[i]
                    count += 1
                if border and phrase_open[found] >= 0:
                    if count < room:
                        out_phrase[count] = phrase_open[found]
                        out_token[count] = order[i]
                    count += 1
                found = out_state[fail[found]]
    return count


@jit
def bound(body: Array, start: Array, keys: Array, low: int, high: int, lead: int, cap: int) -> Any:
    """First index in sorted bodies that is not less than `lead + keys[low:high] + cap`.

    `lead` is one byte put in front, or -1. `cap` 0 gives the plain lower bound; 3 stands after
    every body that equals the key or goes on with a word border; 256 after every body that begins
    with the key.
    """
    left, right = 0, start.shape[0] - 1
    while left < right:
        middle = (left + right) >> 1
        if _less(body, start[middle], start[middle + 1], keys, low, high, lead, cap):
            left = middle + 1
        else:
            right = middle
    return left


@jit
def _less(
    body: Array, start: int, end: int, keys: Array, low: int, high: int, lead: int, cap: int
) -> Any:
    offset = start
    if lead >= 0:
        if offset == end:
            return True
        if body[offset] != lead:
            return body[offset] < lead
        offset += 1
    for k in range(low, high):
        if offset == end:
            return True
        if body[offset] != keys[k]:
            return body[offset] < keys[k]
        offset += 1
    return cap > 0 if offset == end else body[offset] < cap


@jit
def build_entries(
    patterns: Array,
    start: Array,
    whole: Array,
    states: Array,
    parent: Array,
    body: Array,
    body_start: Array,
    out: Array,
) -> Any:
    """All entries (state, phrase, low, high): in `state`, bodies low..high complete the phrase.

    For every way to cut a pattern at a character, the bodies that begin with the rest (and, for a
    whole word, end there or go on with a border) are one range of the sorted vocabulary. `out`
    [room, 4] int32. Returns the number of entries; when that is more than `out` holds, only the
    first are written and the caller comes again with more room.
    """
    count = 0
    room = out.shape[0]
    for p in range(start.shape[0] - 1):
        state = parent[states[p]]
        cap = 3 if whole[p] else 256
        for cut in range(start[p + 1] - 1, start[p], -1):
            symbol = patterns[cut]
            before = patterns[cut - 1]
            at_char = symbol & 0xC0 != 0x80 and before > _END
            if at_char:
                rest = cut + 1 if symbol <= _END else cut
                for lead in (-1, 0x20):
                    if lead == 0x20 and before != 0x20:
                        continue
                    low = rest if lead < 0 else cut
                    first = bound(body, body_start, patterns, low, start[p + 1], lead, 0)
                    last = bound(body, body_start, patterns, low, start[p + 1], lead, cap)
                    if first < last:
                        if count < room:
                            out[count, 0] = state
                            out[count, 1] = p
                            out[count, 2] = first
                            out[count, 3] = last
                        count += 1
            state = parent[state]
    return count


@jit
def build_initial(
    patterns: Array, start: Array, whole: Array, body: Array, body_start: Array, out: Array
) -> None:
    """Per pattern the range of bodies that begin with it; `out` [n, 2] int32, zero before.

    Patterns that need no word border in front are left out: they lie inside those bodies.
    """
    for p in range(out.shape[0]):
        if patterns[start[p]] == _START:
            low, high = start[p] + 1, start[p + 1]
            cap = 3 if whole[p] else 256
            out[p, 0] = bound(body, body_start, patterns, low, high, -1, 0)
            out[p, 1] = bound(body, body_start, patterns, low, high, -1, cap)
