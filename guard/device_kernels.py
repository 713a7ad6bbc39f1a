"""The device kernels on a GPU, in Triton: `guard.device_reference`, one program for each row.

A text is followed byte by byte, so `follow` is one warp per request that looks at all children of
a trie state at once. What is forbidden is written by several programs per row. The bytes of a
character that was split over tokens are put together lane by lane, one lane for each token that
could finish it.

No argument changes what is compiled from one step to the next: numbers are not specialised.
"""

from __future__ import annotations

from typing import Any

import triton.language as tl

from guard.device_policy import DevicePolicy
from guard.device_slots import Step
from guard.device_vocabulary import DeviceVocabulary
from guard.triton_constants import (
    BEFORE,
    BOUNDS,
    CLOSE_AT,
    CLOSED,
    ENTRIES,
    FACTS,
    FIELDS,
    FORBIDDEN,
    INTERCEPTED,
    LANES,
    NEVER,
    NONCE,
    NOT_STEERED,
    NOTHING_LEFT,
    OTHER,
    PARTS,
    PENDING,
    POLICY,
    ROW_BEFORE,
    ROW_BEGUN,
    ROW_FIELDS,
    ROW_PENDING,
    ROW_STATE,
    SEEN,
    SET,
    SETTLED,
    STATE,
    STEERED,
    WIDE,
    WORD,
    jit,
)
from guard.triton_lanes import finish, is_on
from guard.triton_launch import kernel
from guard.triton_penalties import penalise
from guard.triton_text import begin, is_finishing, take
from guard.triton_veto import veto

__all__ = ["follow", "forbid", "penalise", "settle", "veto"]


def follow(step: Step, policy: DevicePolicy, vocabulary: DeviceVocabulary) -> None:
    """See `guard.device_reference.follow`."""
    _follow.launch(
        step.slot_of.shape[0],
        1,
        step.slot_of,
        step.local,
        step.inputs,
        step.slot_of.shape[0],
        step.tokens,
        step.tokens.stride(0),
        step.prompt_len,
        step.total_len,
        step.slots,
        step.rows,
        step.report,
        policy.id,
        policy.longest,
        *_trie(policy),
        *_runs(vocabulary),
        vocabulary.pending,
        vocabulary.head,
        vocabulary.tail,
        vocabulary.weight,
        vocabulary.size,
        vocabulary.num_continuing,
    )


def forbid(step: Step, policy: DevicePolicy, vocabulary: DeviceVocabulary) -> None:
    """See `guard.device_reference.forbid`."""
    tables, sets = policy.tables, policy.sets
    _forbid.launch(
        step.slot_of.shape[0],
        PARTS.value,
        step.logits,
        step.logits.stride(0),
        step.logits.shape[1],
        step.slot_of,
        step.slots,
        step.rows,
        step.report,
        policy.id,
        *_trie(policy),
        *_runs(vocabulary),
        tables.out_state,
        tables.phrase_open,
        tables.phrase_any,
        tables.entry_state,
        tables.entry_start,
        tables.entry_phrase,
        tables.entry_low,
        tables.entry_high,
        sets.bits,
        sets.bits.stride(0),
        sets.bounds,
        sets.pool,
        vocabulary.order,
        vocabulary.continuing,
        vocabulary.head,
        vocabulary.size,
        vocabulary.num_continuing,
    )


def settle(step: Step, end_id: int) -> None:
    """See `guard.device_reference.settle`."""
    _settle.launch(
        step.slot_of.shape[0],
        1,
        step.logits,
        step.logits.stride(0),
        step.logits.shape[1],
        step.slot_of,
        step.local,
        step.total_len,
        step.slots,
        step.rows,
        step.report,
        end_id,
    )


def _trie(policy: DevicePolicy) -> tuple[Any, ...]:
    return policy.tables.first_child, policy.tables.label, policy.tables.fail


def _runs(vocabulary: DeviceVocabulary) -> tuple[Any, ...]:
    return (
        vocabulary.run_bytes,
        vocabulary.run_start,
        vocabulary.run_first,
        vocabulary.run_last,
    )


@kernel("num_rows", "tokens_stride", "policy", "reach", "size", "num_continuing", warps=1)
def _follow(
    slot_of: tl.tensor,
    local: tl.tensor,
    inputs: tl.tensor,
    num_rows: tl.tensor,
    tokens: tl.tensor,
    tokens_stride: tl.tensor,
    prompt_len: tl.tensor,
    total_len: tl.tensor,
    slots: tl.tensor,
    rows: tl.tensor,
    report: tl.tensor,
    policy: tl.tensor,
    reach: tl.tensor,
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
    weight: tl.tensor,
    size: tl.tensor,
    num_continuing: tl.tensor,
) -> None:
    first = tl.program_id(0)
    slot = tl.load(slot_of + first).to(tl.int64)
    if slot < 0:
        return
    here = slots + slot * FIELDS
    leads = (tl.load(local + first) == 0) & (tl.load(here + POLICY) == policy)
    if (leads & (tl.load(here + CLOSED) == 0)) == 0:
        return
    total = tl.load(total_len + slot).to(tl.int32)
    close_at = tl.load(here + CLOSE_AT).to(tl.int32)
    if (close_at != NEVER) & (total > close_at):
        tl.store(here + CLOSED, NOTHING_LEFT)
        return
    if close_at != NEVER:
        # The row that had nothing left was a draft that has been rejected.
        tl.store(here + CLOSE_AT, NEVER)
        tl.store(report + FACTS + slot, tl.load(here + NONCE) * 8)
    state = tl.load(here + STATE).to(tl.int32)
    before = tl.load(here + BEFORE).to(tl.int32)
    pending = tl.load(here + PENDING).to(tl.int32)
    seen = tl.load(here + SEEN).to(tl.int32)
    history = tokens + slot * tokens_stride
    if seen < 0:
        prompt = tl.load(prompt_len + slot).to(tl.int32)
        seen = begin(history, prompt, total, reach, pending_of, weight, size)
    while seen < total:
        state, before, pending = take(
            first_child,
            label,
            fail,
            run_bytes,
            run_start,
            run_first,
            run_last,
            pending_of,
            head_of,
            tail_of,
            size,
            num_continuing,
            state,
            before,
            pending,
            tl.load(history + seen).to(tl.int32),
        )
        seen += 1
    tl.store(here + STATE, state)
    tl.store(here + BEFORE, before)
    tl.store(here + PENDING, pending)
    tl.store(here + SEEN, total)
    row = first
    more = (slot >= 0).to(tl.int32)
    while more != 0:
        note = rows + row.to(tl.int64) * ROW_FIELDS
        tl.store(note + ROW_STATE, state)
        tl.store(note + ROW_BEFORE, before)
        tl.store(note + ROW_PENDING, pending)
        tl.store(note + ROW_BEGUN, 0)
        row += 1
        there = row < num_rows
        same = tl.load(slot_of + row, mask=there, other=-1).to(tl.int64) == slot
        place = tl.load(local + row, mask=there, other=0).to(tl.int32)
        more = (same & (place == row - first)).to(tl.int32)
        state, before, pending = take(
            first_child,
            label,
            fail,
            run_bytes,
            run_start,
            run_first,
            run_last,
            pending_of,
            head_of,
            tail_of,
            size,
            num_continuing,
            state,
            before,
            pending,
            tl.load(inputs + row, mask=more != 0, other=-1).to(tl.int32),
        )


@kernel("logits_stride", "width", "policy", "bits_stride", "size", "num_continuing", warps=4)
def _forbid(
    logits: tl.tensor,
    logits_stride: tl.tensor,
    width: tl.tensor,
    slot_of: tl.tensor,
    slots: tl.tensor,
    rows: tl.tensor,
    report: tl.tensor,
    policy: tl.tensor,
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
    entry_state: tl.tensor,
    entry_start: tl.tensor,
    entry_phrase: tl.tensor,
    entry_low: tl.tensor,
    entry_high: tl.tensor,
    bits: tl.tensor,
    bits_stride: tl.tensor,
    bounds: tl.tensor,
    pool: tl.tensor,
    order: tl.tensor,
    continuing: tl.tensor,
    head_of: tl.tensor,
    size: tl.tensor,
    num_continuing: tl.tensor,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    slot = tl.load(slot_of + row).to(tl.int64)
    if slot < 0:
        return
    here = slots + slot * FIELDS
    if (tl.load(here + POLICY) != policy) | (tl.load(here + CLOSED) != 0):
        return
    active = tl.load(here + SET)
    on = bits + active * bits_stride
    note = rows + row * ROW_FIELDS
    state = tl.load(note + ROW_STATE).to(tl.int32)
    before = tl.load(note + ROW_BEFORE).to(tl.int32)
    pending = tl.load(note + ROW_PENDING).to(tl.int32)
    line = logits + row * logits_stride
    count = state * 0
    if pending != 0:
        c = part * LANES
        while c < num_continuing:
            count += finish(
                line,
                width,
                first_child,
                label,
                fail,
                run_bytes,
                run_start,
                run_first,
                run_last,
                out_state,
                phrase_open,
                phrase_any,
                on,
                continuing,
                head_of,
                size,
                num_continuing,
                state,
                before,
                pending,
                c,
            )
            c += PARTS * LANES
        # All other tokens leave the character broken, so the text begins anew behind it.
        state = state * 0
        before = before * 0 + OTHER
    low = tl.load(bounds + active * BOUNDS).to(tl.int32)
    middle = tl.load(bounds + active * BOUNDS + 1).to(tl.int32)
    high = tl.load(bounds + active * BOUNDS + 2).to(tl.int32)
    high = tl.where(before == WORD, middle, high)
    low += part * LANES
    pendings = pending + tl.zeros([LANES], tl.int32)
    while low < high:
        lane = low + tl.arange(0, LANES)
        token = tl.load(pool + lane, mask=lane < high, other=0)
        chosen = (lane < high) & (token < width)
        head = tl.load(head_of + token, mask=chosen & (pendings != 0), other=0)
        chosen = chosen & ((pendings == 0) | (is_finishing(pendings, head) == 0))
        tl.store(line + token, float("-inf"), mask=chosen)
        count += tl.sum(chosen.to(tl.int32), axis=0)
        low += PARTS * LANES
    begun = _forbid_begun(
        line,
        width,
        fail,
        entry_state,
        entry_start,
        entry_phrase,
        entry_low,
        entry_high,
        on,
        order,
        state,
        part,
    )
    if begun > 0:
        tl.store(note + ROW_BEGUN, 1)
    if count + begun > 0:
        tl.atomic_add(report + FORBIDDEN, (count + begun).to(tl.int64))


@jit
def _forbid_begun(
    line: tl.tensor,
    width: tl.tensor,
    fail: tl.tensor,
    entry_state: tl.tensor,
    entry_start: tl.tensor,
    entry_phrase: tl.tensor,
    entry_low: tl.tensor,
    entry_high: tl.tensor,
    on: tl.tensor,
    order: tl.tensor,
    state: tl.tensor,
    part: tl.tensor,
) -> tl.tensor:
    """Forbid what completes a begun phrase: tiles of entries in turn for the row's programs."""
    count = state * 0
    turn = state * 0
    state = tl.load(entry_state + state)
    while state != 0:
        first = tl.load(entry_start + state)
        last = tl.load(entry_start + state + 1)
        while first < last:
            if turn % PARTS == part:
                entry = first + tl.arange(0, ENTRIES)
                phrase = tl.load(entry_phrase + entry, mask=entry < last, other=-1)
                active = is_on(on, phrase)
                low = tl.load(entry_low + entry, mask=active, other=0)
                high = tl.load(entry_high + entry, mask=active, other=0)
                longest = tl.max(high - low, axis=0)
                offset = longest * 0
                while offset < longest:
                    place = low[:, None] + offset + tl.arange(0, WIDE)[None, :]
                    inside = place < high[:, None]
                    token = tl.load(order + place, mask=inside, other=0)
                    chosen = inside & (token < width)
                    tl.store(line + token, float("-inf"), mask=chosen)
                    count += tl.sum(tl.sum(chosen.to(tl.int32), axis=1), axis=0)
                    offset += WIDE
            turn += 1
            first += ENTRIES
        state = tl.load(entry_state + tl.load(fail + state))
    return count


@kernel("logits_stride", "width", "end_id", warps=8)
def _settle(
    logits: tl.tensor,
    logits_stride: tl.tensor,
    width: tl.tensor,
    slot_of: tl.tensor,
    local: tl.tensor,
    total_len: tl.tensor,
    slots: tl.tensor,
    rows: tl.tensor,
    report: tl.tensor,
    end_id: tl.tensor,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slot_of + row).to(tl.int64)
    if slot < 0:
        return
    here = slots + slot * FIELDS
    if tl.load(here + POLICY) == NOT_STEERED:
        return
    line = logits + row * logits_stride
    at = width * 0
    if tl.load(here + CLOSED) != 0:
        while at < width:
            lane = at + tl.arange(0, SETTLED)
            value = tl.where(lane == end_id, 0.0, float("-inf"))
            tl.store(line + lane, value, mask=lane < width)
            at += SETTLED
        return
    tl.atomic_add(report + STEERED, 1)
    if tl.load(rows + row * ROW_FIELDS + ROW_BEGUN) != 0:
        tl.atomic_add(report + INTERCEPTED, 1)
    left = width * 0
    while (at < width) & (left == 0):
        lane = at + tl.arange(0, SETTLED)
        value = tl.load(line + lane, mask=lane < width, other=float("-inf"))
        left = tl.max((value != float("-inf")).to(tl.int32), axis=0)
        at += SETTLED
    if left == 0:
        tl.store(line + end_id, 0.0)
        close_at = tl.load(total_len + slot).to(tl.int64) + tl.load(local + row)
        tl.atomic_min(here + CLOSE_AT, close_at)
        tl.store(report + FACTS + slot, tl.load(here + NONCE) * 8 + NOTHING_LEFT)
