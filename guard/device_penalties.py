"""The semantic filter's step on CPU tensors as the device does it: see `guard.semantic_step`."""

from __future__ import annotations

from guard.device_policy import DevicePolicy
from guard.device_slots import RowField, SlotField, Step
from guard.kernels import Array, jit
from guard.stream import CharClass

_POLICY = int(SlotField.POLICY)
_SET = int(SlotField.SET)
_CLOSED = int(SlotField.CLOSED)
_BEFORE = int(RowField.BEFORE)
_PENDING = int(RowField.PENDING)
_WORD = int(CharClass.WORD)


def penalise(step: Step, policy: DevicePolicy) -> None:
    """Subtract, in place, what the policy's slots take from their rows; after `follow`."""
    sets = policy.sets
    _penalise(
        step.logits.numpy(),
        step.slot_of.numpy(),
        step.slots.numpy(),
        step.rows.numpy(),
        policy.id,
        sets.bounds.numpy(),
        sets.pool.numpy(),
        sets.amounts.numpy(),
    )


@jit
def _penalise(
    logits: Array,
    slot_of: Array,
    slots: Array,
    rows: Array,
    policy: int,
    bounds: Array,
    pool: Array,
    amounts: Array,
) -> None:
    width = logits.shape[1]
    for row in range(slot_of.shape[0]):
        slot = slot_of[row]
        if slot < 0 or slots[slot, _POLICY] != policy or slots[slot, _CLOSED]:
            continue
        active = slots[slot, _SET]
        inside = rows[row, _PENDING] != 0 or rows[row, _BEFORE] == _WORD
        last = bounds[active, 3] if inside else bounds[active, 4]
        for k in range(bounds[active, 2], last):
            if pool[k] < width:
                logits[row, pool[k]] -= amounts[k]
