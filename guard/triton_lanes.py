"""Judging many tokens at once in a Triton kernel: one lane for each that ends a split character."""

from __future__ import annotations

import triton.language as tl

from guard.triton_constants import END, LANES, jit
from guard.triton_text import border_between, code_point, is_finishing, missing, swallows


@jit
def is_on(on: tl.tensor, phrase: tl.tensor) -> tl.tensor:
    """Lane by lane whether a phrase is active; -1 is none."""
    byte = tl.load(on + (phrase >> 3), mask=phrase >= 0, other=0).to(tl.int32)
    return (phrase >= 0) & (((byte >> (phrase & 7)) & 1) != 0)


@jit
def finish(
    line: tl.tensor,
    width: tl.tensor,
    first_child: tl.tensor,
    label: tl.tensor,
    fail: tl.tensor,
    run_bytes: tl.tensor,
    run_start: tl.tensor,
    run_first: tl.tensor,
    run_last: tl.tensor,
    out_state: tl.tensor,
    phrase_open: tl.tensor,
    phrase_any: tl.tensor,
    on: tl.tensor,
    continuing: tl.tensor,
    head_of: tl.tensor,
    size: tl.tensor,
    num_continuing: tl.tensor,
    state: tl.tensor,
    before: tl.tensor,
    pending: tl.tensor,
    first: tl.tensor,
) -> tl.tensor:
    """Forbid the tokens that finish the pending character and with it an active phrase.

    Each lane reads a border, the character, a border and the rest of its token.
    """
    c = first + tl.arange(0, LANES)
    before = before + c * 0
    pending = pending + c * 0
    token = tl.load(continuing + c, mask=c < num_continuing, other=0)
    head = tl.load(head_of + token, mask=c < num_continuing, other=0)
    mask = (c < num_continuing) & (token < width) & is_finishing(pending, head)
    char = tl.where(mask, size + 3 * num_continuing + code_point(pending, head), 0)
    tail = tl.where(mask, size + 3 * c + missing(pending) - 1, 0)
    char_low = tl.load(run_start + char)
    char_high = tl.load(run_start + char + 1)
    tail_low = tl.load(run_start + tail)
    tail_high = tl.load(run_start + tail + 1)
    char_first = tl.load(run_first + char).to(tl.int32)
    tail_first = tl.load(run_first + tail).to(tl.int32)
    some = char_low < char_high
    lead = tl.where(some, border_between(before, char_first), 0)
    char_low += tl.where(some, swallows(before, char_first), 0)
    middle = tl.where(some, tl.load(run_last + char).to(tl.int32), before)
    rest = tail_low < tail_high
    between = tl.where(rest, border_between(middle, tail_first), 0)
    tail_low += tl.where(rest, swallows(middle, tail_first), 0)
    char_at = (lead != 0).to(tl.int32)
    between_at = char_at + char_high - char_low
    tail_at = between_at + (between != 0).to(tl.int32)
    total = tl.where(mask, tail_at + tail_high - tail_low, 0)
    states = tl.zeros([LANES], tl.int32) + state
    done = tl.zeros([LANES], tl.int32)
    longest = tl.max(total, axis=0)
    i = longest * 0
    while i < longest:
        inside = (i >= char_at) & (i < between_at)
        behind = (i >= tail_at) & (i < total)
        symbol = tl.where(i < char_at, lead, between)
        symbol = tl.where(
            inside,
            tl.load(run_bytes + char_low + i - char_at, mask=inside, other=0).to(tl.int32),
            symbol,
        )
        symbol = tl.where(
            behind,
            tl.load(run_bytes + tail_low + i - tail_at, mask=behind, other=0).to(tl.int32),
            symbol,
        )
        live = (i < total) & (done == 0)
        states = _step_lanes(first_child, label, fail, states, symbol, live)
        # Within a run a border is written; between the two runs it is their classes'.
        within = tl.where(i < between_at, char_low + i - char_at, tail_low + i - tail_at) + 1
        end = tl.where(i < between_at, char_high, tail_high)
        following = tl.load(run_bytes + within, mask=live & (within < end), other=0)
        closes = (i + 1 == between_at) & (between == END)
        border = (i + 1 == total) | (following.to(tl.int32) == END) | closes
        found = _occurs(fail, out_state, phrase_open, phrase_any, on, states, border, live)
        done = done | found.to(tl.int32)
        i += 1
    tl.store(line + token, float("-inf"), mask=mask & (done != 0))
    return tl.sum(done, axis=0)


@jit
def _step_lanes(
    first_child: tl.tensor,
    label: tl.tensor,
    fail: tl.tensor,
    state: tl.tensor,
    symbol: tl.tensor,
    live: tl.tensor,
) -> tl.tensor:
    """`_step`, lane by lane; other lanes keep their state."""
    result = state
    todo = live
    while tl.max(todo.to(tl.int32), axis=0) > 0:
        found = _child_lanes(first_child, label, state, symbol, todo)
        result = tl.where(todo, found, result)
        todo = todo & (found == 0) & (state != 0)
        state = tl.load(fail + state, mask=todo, other=0)
    return result


@jit
def _child_lanes(
    first_child: tl.tensor, label: tl.tensor, state: tl.tensor, symbol: tl.tensor, todo: tl.tensor
) -> tl.tensor:
    low = tl.load(first_child + state, mask=todo, other=0)
    end = tl.load(first_child + state + 1, mask=todo, other=0)
    high = end
    for _ in range(9):  # at most 256 children
        middle = (low + high) >> 1
        unsure = todo & (low < high)
        less = tl.load(label + middle, mask=unsure, other=0).to(tl.int32) < symbol
        low = tl.where(unsure & less, middle + 1, low)
        high = tl.where(unsure & (less == 0), middle, high)
    there = todo & (low < end)
    same = tl.load(label + low, mask=there, other=0).to(tl.int32) == symbol
    return tl.where(there & same, low, 0)


@jit
def _occurs(
    fail: tl.tensor,
    out_state: tl.tensor,
    phrase_open: tl.tensor,
    phrase_any: tl.tensor,
    on: tl.tensor,
    state: tl.tensor,
    border: tl.tensor,
    live: tl.tensor,
) -> tl.tensor:
    """Lane by lane whether an active phrase ends in this state."""
    found = live & (state < 0)
    state = tl.load(out_state + state, mask=live, other=0)
    while tl.max(state, axis=0) > 0:
        there = state > 0
        found = found | is_on(on, tl.load(phrase_any + state, mask=there, other=-1))
        whole = is_on(on, tl.load(phrase_open + state, mask=there & border, other=-1))
        found = found | whole
        suffix = tl.load(fail + state, mask=there, other=0)
        state = tl.load(out_state + suffix, mask=there & (found == 0), other=0)
    return found
