"""The automaton's inner loops, compiled by numba; they hold no Python object and release the GIL.

Array arguments are those of `guard.automaton.Tables` and `guard.stream.Streams`. A state is an
index into the trie; state 0 is the root.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import numba
import numpy as np
import numpy.typing as npt

from guard.stream import WORD_END, WORD_START, CharClass

# Compiled loops are typed by their arguments at run time; for the type checker they are arrays.
Array = npt.NDArray[Any]

_SPACE = int(CharClass.SPACE)
_WORD = int(CharClass.WORD)
_START = WORD_START
_END = WORD_END
# Bytes whose pages are brought in at once, in about half a millisecond.
_PIECE = 1 << 23


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile at first call, cached on disk, without the GIL."""
    return cast(Callable[..., Any], numba.njit(cache=True, nogil=True)(function))


def short_jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile like `jit`, but keep the GIL.

    For loops of some microseconds in the engine's step: another thread that takes the GIL meanwhile
    keeps it for longer than they last.
    """
    return cast(Callable[..., Any], numba.njit(cache=True)(function))


@jit
def find(label: Array, low: int, high: int, symbol: int) -> Any:
    """The state among low .. high, which are sorted, that has this symbol; 0 for none."""
    end = high
    while low < high:
        middle = (low + high) >> 1
        if label[middle] < symbol:
            low = middle + 1
        else:
            high = middle
    if low < end and label[low] == symbol:
        return low
    return 0


@jit
def child(first_child: Array, label: Array, state: int, symbol: int) -> Any:
    """The trie child of a state under a symbol, or 0; children are contiguous and sorted."""
    return find(label, first_child[state], first_child[state + 1], symbol)


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
def is_on(bits: Array, active: int, phrase: int) -> Any:
    """Whether a phrase is in an active set."""
    return (bits[active, phrase >> 3] >> (phrase & 7)) & 1 != 0


@jit
def activate(
    phrases: Array,
    inside_start: Array,
    inside_token: Array,
    initial: Array,
    bits: Array,
    active: int,
    edges: Array,
    marks: Array,
) -> None:
    """Add phrases to row `active` of `bits`, and note the tokens that complete one by themselves.

    `marks` [V] uint8 becomes 2 for those that do so wherever they stand; `edges` [k + 1] int32 is
    how many ranges of the order more begin than end at each place, for `mark_starts`.
    """
    for phrase in phrases:
        bits[active, phrase >> 3] |= np.uint8(1 << (phrase & 7))
        edges[initial[phrase, 0]] += 1
        edges[initial[phrase, 1]] -= 1
        for k in range(inside_start[phrase], inside_start[phrase + 1]):
            marks[inside_token[k]] = 2


@jit
def mark_starts(edges: Array, order: Array, marks: Array) -> None:
    """Mark with 1 the tokens that complete a phrase only at the start of a word."""
    open_ranges = 0
    for k in range(order.shape[0]):
        open_ranges += edges[k]
        if open_ranges and not marks[order[k]]:
            marks[order[k]] = 1


@jit
def touch(pages: Array) -> Any:
    """Read one byte of every page, so that no later reader has to wait for it."""
    total = 0
    for i in range(0, pages.shape[0], 4096):
        total += pages[i]
    return total


def touch_all(arrays: Iterable[Array], pause: Callable[[], object]) -> None:
    """`touch` whole arrays in pieces, with a call of `pause` after each."""
    for array in arrays:
        flat = np.asarray(array).reshape(-1).view(np.uint8)
        for low in range(0, len(flat), _PIECE):
            touch(flat[low : low + _PIECE])
            pause()


@jit
def occurs(
    out_state: Array,
    fail: Array,
    phrase_open: Array,
    phrase_any: Array,
    bits: Array,
    active: int,
    state: int,
    at_border: bool,
) -> Any:
    """Whether an active phrase ends in this state (whole-word ones only at a border)."""
    state = out_state[state]
    while state:
        if phrase_any[state] >= 0 and is_on(bits, active, phrase_any[state]):
            return True
        if at_border and phrase_open[state] >= 0 and is_on(bits, active, phrase_open[state]):
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
    active: int,
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
        if occurs(out_state, fail, phrase_open, phrase_any, bits, active, state, border):
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
    active: int,
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
            active,
            state,
            before,
            body,
            start[i],
            start[i + 1],
            first[i],
        )
