"""The end of a step on a GPU, in Triton: `guard.device_settle`, a program for each row."""

from __future__ import annotations

import triton.language as tl

from guard.device_slots import Step
from guard.triton_constants import (
    CLOSE_AT,
    CLOSED,
    FACTS,
    FIELDS,
    INTERCEPTED,
    NONCE,
    NOT_STEERED,
    NOTHING_LEFT,
    POLICY,
    ROW_BEGUN,
    ROW_FIELDS,
    SETTLED,
    STEERED,
)
from guard.triton_launch import kernel


def settle(step: Step, end_id: int) -> None:
    """See `guard.device_settle.settle`."""
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
