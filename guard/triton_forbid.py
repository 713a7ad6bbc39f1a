"""The token filter's step on a GPU, in Triton: `guard.device_forbid`, some programs for each row.

The bytes of a character that was split over tokens are put together lane by lane, one lane for each
token that could finish it.
"""

from __future__ import annotations

import triton.language as tl

from guard.device_policy import DevicePolicy
from guard.device_slots import Step
from guard.device_vocabulary import DeviceVocabulary
from guard.triton_constants import (
    BOUNDS,
    CLOSED,
    ENTRIES,
    FIELDS,
    FORBIDDEN,
    LANES,
    OTHER,
    PARTS,
    POLICY,
    ROW_BEFORE,
    ROW_BEGUN,
    ROW_FIELDS,
    ROW_PENDING,
    ROW_STATE,
    SET,
    WIDE,
    WORD,
    jit,
)
from guard.triton_lanes import finish, is_on
from guard.triton_launch import kernel
from guard.triton_text import is_finishing, runs_of, trie_of


def forbid(step: Step, policy: DevicePolicy, vocabulary: DeviceVocabulary) -> None:
    """See `guard.device_forbid.forbid`."""
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
        *trie_of(policy),
        *runs_of(vocabulary),
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
