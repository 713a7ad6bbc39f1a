"""The automaton's inner loops, compiled by numba; they hold no Python object and release the GIL.

Array arguments are those of `guard.automaton.Tables` and `guard.vocabulary.Bodies`. A state is an
index into the trie; state 0 is the root.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numba
import numpy as np
import numpy.typing as npt

from guard.stream import WORD_END, WORD_START, CharClass

# Compiled loops are typed by their arguments at run time; for the type checker they are arrays.
Array = npt.NDArray[Any]

_SPACE = int(CharClass.SPACE)
_WORD = int(CharClass.WORD)
_NONE = int(CharClass.NONE)
_START = WORD_START
_END = WORD_END


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile at first call, cached on disk, without the GIL."""
    return cast(Callable[..., Any], numba.njit(cache=True, nogil=True)(function))


@jit
def child(first_child: Array, label: Array, state: int, symbol: int) -> Any:
    """The trie child of a state under a symbol, or 0; children are contiguous and sorted."""
    low, high = first_child[state], first_child[state + 1]
    while low < high:
        middle = (low + high) >> 1
        if label[middle] < symbol:
            low = middle + 1
        else:
            high = middle
    if low < first_child[state + 1] and label[low] == symbol:
        return low
    return 0


@jit
def step(first_child: Array, label: Array, fail: Array, state: int, symbol: int) -> Any:
    """Aho-Corasick transition."""
    while True:
        found = child(first_child, label, state, symbol)
        if found or state == 0:
            return found
        state = fail[state]


@jit
def enter(
    first_child: Array, label: Array, fail: Array, state: int, before: int, first: int
) -> Any:
    """Write the word border that lies between the text so far and a body's first character."""
    if first == _WORD:
        if before != _WORD:
            state = step(first_child, label, fail, state, _START)
    elif before == _WORD:
        state = step(first_child, label, fail, state, _END)
    return state


@jit
def walk(
    first_child: Array,
    label: Array,
    fail: Array,
    state: int,
    before: int,
    body: Array,
    low: int,
    high: int,
    first: int,
) -> Any:
    """The state after a body, from `state` with a character of class `before` behind it."""
    if low == high:
        return state
    state = enter(first_child, label, fail, state, before, first)
    if first == _SPACE and before == _SPACE:
        low += 1
    for i in range(low, high):
        state = step(first_child, label, fail, state, body[i])
    return state


@jit
def advance(
    first_child: Array,
    label: Array,
    fail: Array,
    body: Array,
    start: Array,
    first: Array,
    last: Array,
    tokens: Array,
    states: Array,
    classes: Array,
) -> None:
    """Move each row's state and class over its token, in place. [rows] each."""
    for row in range(tokens.shape[0]):
        token = tokens[row]
        low, high = start[token], start[token + 1]
        if low < high:
            states[row] = walk(
                first_child,
                label,
                fail,
                states[row],
                classes[row],
                body,
                low,
                high,
                first[token],
            )
            classes[row] = last[token]


@jit
def is_on(bits: Array, phrase: int) -> Any:
    """Whether a phrase's bit is set."""
    return (bits[phrase >> 3] >> (phrase & 7)) & 1 != 0


@jit
def collect(
    fail: Array,
    entry_state: Array,
    entry_start: Array,
    entry_phrase: Array,
    entry_low: Array,
    entry_high: Array,
    order: Array,
    bits: Array,
    pool: Array,
    bounds: Array,
    states: Array,
    classes: Array,
    sets: Array,
    rows: Array,
    width: int,
    out: Array,
    begun: Array,
) -> Any:
    """Write the flat logits indices (row * width + token) that are forbidden now.

    Returns how many there are; when that is more than `out` holds, only the first are written and
    the caller comes again with more room. `begun[0]` becomes the number of rows in which a phrase
    that has begun could be completed. `bounds` [sets, 3] delimits each active set's tokens in
    `pool`: always forbidden, then forbidden at the start of a word.
    """
    count = 0
    room = out.shape[0]
    begun[0] = 0
    for i in range(states.shape[0]):
        base = rows[i] * width
        active = sets[i]
        last = bounds[active, 1] if classes[i] == _WORD else bounds[active, 2]
        for k in range(bounds[active, 0], last):
            if count < room:
                out[count] = base + pool[k]
            count += 1
        before = count
        state = entry_state[states[i]]
        while state:
            for entry in range(entry_start[state], entry_start[state + 1]):
                if is_on(bits[active], entry_phrase[entry]):
                    for k in range(entry_low[entry], entry_high[entry]):
                        if count < room:
                            out[count] = base + order[k]
                        count += 1
            state = entry_state[fail[state]]
        begun[0] += count > before
    return count


@jit
def occurs(
    out_state: Array,
    fail: Array,
    phrase_open: Array,
    phrase_any: Array,
    bits: Array,
    state: int,
    at_border: bool,
) -> Any:
    """Whether an active phrase ends in this state (whole-word ones only at a border)."""
    state = out_state[state]
    while state:
        if phrase_any[state] >= 0 and is_on(bits, phrase_any[state]):
            return True
        if at_border and phrase_open[state] >= 0 and is_on(bits, phrase_open[state]):
            return True
        state = out_state[fail[state]]
    return False


@jit
def completes(
    first_child: Array,
    label: Array,
    fail: Array,
    out_state: Array,
    phrase_open: Array,
    phrase_any: Array,
    bits: Array,
    state: int,
    before: int,
    body: Array,
    low: int,
    high: int,
    first: int,
) -> Any:
    """Whether an active phrase ends within a body or at its end. The slow, plain definition."""
    if low == high:
        return False
    state = enter(first_child, label, fail, state, before, first)
    if first == _SPACE and before == _SPACE:
        low += 1
    for i in range(low, high):
        state = step(first_child, label, fail, state, body[i])
        border = i + 1 == high or body[i + 1] == _END
        if occurs(out_state, fail, phrase_open, phrase_any, bits, state, border):
            return True
    return False


@jit
def completing(
    first_child: Array,
    label: Array,
    fail: Array,
    out_state: Array,
    phrase_open: Array,
    phrase_any: Array,
    bits: Array,
    state: int,
    before: int,
    body: Array,
    start: Array,
    first: Array,
    result: Array,
) -> None:
    """`completes` for each of several bodies; `result` [n] bool."""
    for i in range(result.shape[0]):
        result[i] = completes(
            first_child,
            label,
            fail,
            out_state,
            phrase_open,
            phrase_any,
            bits,
            state,
            before,
            body,
            start[i],
            start[i + 1],
            first[i],
        )


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
    for state in range(1, fail.shape[0]):
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
    `collect` for what happens when there is no room.
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
    [room, 4] int32; returns the number of entries, see `collect`.
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
