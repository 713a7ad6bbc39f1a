"""Following texts on a GPU, in Triton: `guard.device_follow`, a program for each row.

A text is followed byte by byte, so it is one warp per request that looks at all children of a trie
state at once.
"""

from __future__ import annotations

import triton.language as tl

from guard.device_policy import DevicePolicy
from guard.device_slots import Step
from guard.device_vocabulary import DeviceVocabulary
from guard.triton_constants import (
    BEFORE,
    CLOSE_AT,
    CLOSED,
    FACTS,
    FIELDS,
    NEVER,
    NONCE,
    NOTHING_LEFT,
    PENDING,
    POLICY,
    ROW_BEFORE,
    ROW_BEGUN,
    ROW_FIELDS,
    ROW_PENDING,
    ROW_STATE,
    SEEN,
    STATE,
)
from guard.triton_launch import kernel
from guard.triton_text import begin, runs_of, take, trie_of


def follow(step: Step, policy: DevicePolicy, vocabulary: DeviceVocabulary) -> None:
    """See `guard.device_follow.follow`."""
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
        *trie_of(policy),
        *runs_of(vocabulary),
        vocabulary.pending,
        vocabulary.head,
        vocabulary.tail,
        vocabulary.weight,
        vocabulary.size,
        vocabulary.num_continuing,
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
