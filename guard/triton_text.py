"""Reading text in a Triton kernel: the trie, runs, and characters split over tokens."""

from __future__ import annotations

from typing import Any

import triton.language as tl

from guard.device_policy import DevicePolicy
from guard.device_vocabulary import DeviceVocabulary
from guard.triton_constants import CHILDREN, END, LANES, OTHER, SPACE, START, TRANSPARENT, WORD, jit


def trie_of(policy: DevicePolicy) -> tuple[Any, ...]:
    """The trie's tensors, in the order of the kernels' arguments."""
    return policy.tables.first_child, policy.tables.label, policy.tables.fail


def runs_of(vocabulary: DeviceVocabulary) -> tuple[Any, ...]:
    """The runs' tensors, in the order of the kernels' arguments."""
    return (
        vocabulary.run_bytes,
        vocabulary.run_start,
        vocabulary.run_first,
        vocabulary.run_last,
    )


@jit
def begin(
    history: tl.tensor,
    prompt: tl.tensor,
    total: tl.tensor,
    reach: tl.tensor,
    pending_of: tl.tensor,
    weight: tl.tensor,
    size: tl.tensor,
) -> tl.tensor:
    """Where to begin reading a history so that nothing a phrase can reach is left out."""
    at = total
    found = total * 0
    stop = total * 0
    while (at > 0) & (found <= reach) & (stop == 0):
        place = tl.maximum(at - LANES, 0) + tl.arange(0, LANES)
        inside = place < at
        token = tl.load(history + place, mask=inside, other=-1).to(tl.int32)
        known = inside & (token >= 0) & (token < size)
        known = known & (tl.load(pending_of + token, mask=known, other=TRANSPARENT) != TRANSPARENT)
        barrier = inside & (known == 0) & (place < prompt)
        stop = tl.max(tl.where(barrier, place + 1, 0), axis=0)
        inside = inside & (place >= stop)
        weights = tl.load(weight + token, mask=known & inside, other=0)
        found += tl.sum(weights, axis=0)
        # A token is read if what lies behind it is not enough.
        needed = inside & (found - tl.cumsum(weights, axis=0) <= reach)
        at = tl.min(tl.where(needed, place, at), axis=0)
    return at


@jit
def take(
    first_child: tl.tensor,
    label: tl.tensor,
    fail: tl.tensor,
    run_bytes: tl.tensor,
    run_start: tl.tensor,
    run_first: tl.tensor,
    run_last: tl.tensor,
    pending_of: tl.tensor,
    head_of: tl.tensor,
    tail_of: tl.tensor,
    size: tl.tensor,
    num_continuing: tl.tensor,
    state: tl.tensor,
    before: tl.tensor,
    pending: tl.tensor,
    token: tl.tensor,
) -> tl.tensor:
    """State, class and pending bytes after one token."""
    known = (token >= 0) & (token < size)
    left = tl.load(pending_of + token, mask=known, other=TRANSPARENT)
    if left != TRANSPARENT:
        run = token
        joins = token < 0
        if pending != 0:
            head = tl.load(head_of + token)
            finishes = is_finishing(pending, head)
            joins = ((head & 7) > 4) & (finishes == 0) & _goes_on(pending, head)
            if finishes:
                state, before = read(
                    first_child,
                    label,
                    fail,
                    run_bytes,
                    run_start,
                    run_first,
                    run_last,
                    state,
                    before,
                    size + 3 * num_continuing + code_point(pending, head),
                )
                run = size + 3 * tl.load(tail_of + token) + missing(pending) - 1
                left = tl.load(pending_of + run)
            if joins:
                left = _joined(pending, head)
            # Else it stays broken: a replacement character, which is in no phrase.
            state = tl.where(finishes | joins, state, 0)
            before = tl.where(finishes | joins, before, OTHER)
        if joins == 0:
            state, before = read(
                first_child,
                label,
                fail,
                run_bytes,
                run_start,
                run_first,
                run_last,
                state,
                before,
                run,
            )
        pending = left
    return state, before, pending


@jit
def read(
    first_child: tl.tensor,
    label: tl.tensor,
    fail: tl.tensor,
    run_bytes: tl.tensor,
    run_start: tl.tensor,
    run_first: tl.tensor,
    run_last: tl.tensor,
    state: tl.tensor,
    before: tl.tensor,
    run: tl.tensor,
) -> tl.tensor:
    """State and class after one run."""
    low = tl.load(run_start + run)
    high = tl.load(run_start + run + 1)
    if low < high:
        border = border_between(before, tl.load(run_first + run).to(tl.int32))
        if border != 0:
            state = _step(first_child, label, fail, state, border)
        low += swallows(before, tl.load(run_first + run).to(tl.int32))
        while low < high:
            symbol = tl.load(run_bytes + low).to(tl.int32)
            state = _step(first_child, label, fail, state, symbol)
            low += 1
        before = tl.load(run_last + run).to(tl.int32)
    return state, before


@jit
def border_between(before: tl.tensor, first: tl.tensor) -> tl.tensor:
    """The border symbol between two characters of these classes; 0 for none."""
    opens = tl.where(before != WORD, START, 0)
    closes = tl.where(before == WORD, END, 0)
    return tl.where(first == WORD, opens, closes)


@jit
def swallows(before: tl.tensor, first: tl.tensor) -> tl.tensor:
    """1 where a space follows a space."""
    return ((first == SPACE) & (before == SPACE)).to(tl.int32)


@jit
def _step(
    first_child: tl.tensor, label: tl.tensor, fail: tl.tensor, state: tl.tensor, symbol: tl.tensor
) -> tl.tensor:
    found = _child(first_child, label, state, symbol)
    while (found == 0) & (state != 0):
        state = tl.load(fail + state)
        found = _child(first_child, label, state, symbol)
    return found


@jit
def _child(
    first_child: tl.tensor, label: tl.tensor, state: tl.tensor, symbol: tl.tensor
) -> tl.tensor:
    lane = tl.load(first_child + state) + tl.arange(0, CHILDREN)
    inside = lane < tl.load(first_child + state + 1)
    labels = tl.load(label + lane, mask=inside, other=0).to(tl.int32)
    return tl.max(tl.where(inside & (labels == symbol), lane, 0), axis=0)


@jit
def _held(pending: tl.tensor) -> tl.tensor:
    return 1 + (pending > 0xFF).to(tl.int32) + (pending > 0xFFFF).to(tl.int32)


@jit
def missing(pending: tl.tensor) -> tl.tensor:
    """How many bytes the pending character still needs."""
    lead = pending & 0xFF
    length = 2 + (lead >= 0xE0).to(tl.int32) + (lead >= 0xF0).to(tl.int32)
    return length - _held(pending)


@jit
def _goes_on(pending: tl.tensor, head: tl.tensor) -> tl.tensor:
    second = 0x80 | ((head >> 3) & 0x3F)
    low = tl.where(pending == 0xE0, 0xA0, tl.where(pending == 0xF0, 0x90, 0x80))
    high = tl.where(pending == 0xED, 0xA0, tl.where(pending == 0xF4, 0x90, 0xC0))
    return (pending > 0xFF) | ((second >= low) & (second < high))


@jit
def is_finishing(pending: tl.tensor, head: tl.tensor) -> tl.tensor:
    """Whether a token with this head finishes the pending character."""
    return ((head & 3) >= missing(pending)) & _goes_on(pending, head)


@jit
def code_point(pending: tl.tensor, head: tl.tensor) -> tl.tensor:
    """The code point that the pending bytes and the head finish."""
    lead = pending & 0xFF
    held = _held(pending)
    need = missing(pending)
    three = tl.where(lead < 0xF0, lead & 0x0F, lead & 0x07)
    point = tl.where(lead < 0xE0, lead & 0x1F, three)
    point = tl.where(held > 1, (point << 6) | ((pending >> 8) & 0x3F), point)
    point = tl.where(held > 2, (point << 6) | ((pending >> 16) & 0x3F), point)
    point = tl.where(need > 0, (point << 6) | ((head >> 3) & 0x3F), point)
    point = tl.where(need > 1, (point << 6) | ((head >> 9) & 0x3F), point)
    return tl.where(need > 2, (point << 6) | ((head >> 15) & 0x3F), point)


@jit
def _joined(pending: tl.tensor, head: tl.tensor) -> tl.tensor:
    held = _held(pending)
    joined = pending | ((0x80 | ((head >> 3) & 0x3F)) << (8 * held))
    second = (0x80 | ((head >> 9) & 0x3F)) << (8 * held + 8)
    return tl.where((head & 3) > 1, joined | second, joined)
