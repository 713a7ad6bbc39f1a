"""The semantic filter's step on a GPU, in Triton: `guard.device_penalties`, lanes over the list."""

from __future__ import annotations

import triton.language as tl

from guard.device_policy import DevicePolicy
from guard.device_slots import Step
from guard.triton_constants import (
    BOUNDS,
    CLOSED,
    FIELDS,
    LANES,
    PARTS,
    POLICY,
    ROW_BEFORE,
    ROW_FIELDS,
    ROW_PENDING,
    SET,
    WORD,
)
from guard.triton_launch import kernel


def penalise(step: Step, policy: DevicePolicy) -> None:
    """See `guard.device_penalties.penalise`."""
    sets = policy.sets
    _penalise.launch(
        step.slot_of.shape[0],
        PARTS.value,
        step.logits,
        step.logits.stride(0),
        step.logits.shape[1],
        step.slot_of,
        step.slots,
        step.rows,
        policy.id,
        sets.bounds,
        sets.pool,
        sets.amounts,
    )


@kernel("logits_stride", "width", "policy", warps=4)
def _penalise(
    logits: tl.tensor,
    logits_stride: tl.tensor,
    width: tl.tensor,
    slot_of: tl.tensor,
    slots: tl.tensor,
    rows: tl.tensor,
    policy: tl.tensor,
    bounds: tl.tensor,
    pool: tl.tensor,
    amounts: tl.tensor,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    slot = tl.load(slot_of + row).to(tl.int64)
    if slot < 0:
        return
    here = slots + slot * FIELDS
    if (tl.load(here + POLICY) != policy) | (tl.load(here + CLOSED) != 0):
        return
    place = bounds + tl.load(here + SET) * BOUNDS
    note = rows + row * ROW_FIELDS
    inside = (tl.load(note + ROW_PENDING) != 0) | (tl.load(note + ROW_BEFORE) == WORD)
    low = tl.load(place + 2).to(tl.int32)
    high = tl.where(inside, tl.load(place + 3), tl.load(place + 4)).to(tl.int32)
    line = logits + row * logits_stride
    low += part * LANES
    # A token is on a list once, so no two lanes meet.
    while low < high:
        lane = low + tl.arange(0, LANES)
        token = tl.load(pool + lane, mask=lane < high, other=0)
        chosen = (lane < high) & (token < width)
        amount = tl.load(amounts + lane, mask=chosen, other=0.0)
        value = tl.load(line + token, mask=chosen, other=0.0)
        tl.store(line + token, value - amount, mask=chosen)
        low += PARTS * LANES
