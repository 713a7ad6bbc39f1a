"""The end of a step on CPU tensors as the device does it."""

from __future__ import annotations

import numpy as np

from guard.device_slots import NOT_STEERED, RowField, SlotField, Step
from guard.kernels import Array, jit
from guard.ledger import CloseReason, Counter

_POLICY = int(SlotField.POLICY)
_CLOSED = int(SlotField.CLOSED)
_CLOSE_AT = int(SlotField.CLOSE_AT)
_NONCE = int(SlotField.NONCE)
_ROW_BEGUN = int(RowField.BEGUN)
_INTERCEPTED = int(Counter.INTERCEPTED_STEPS)
_STEERED = int(Counter.STEERED_STEPS)
_NOTHING_LEFT = int(CloseReason.NOTHING_LEFT)
_FACTS = int(Counter.VETOED_TOKENS) + 1
_NOT_STEERED = NOT_STEERED


def settle(step: Step, end_id: int) -> None:
    """End the rows of closed slots, and those in which nothing is left to sample."""
    _settle(
        step.logits.numpy(),
        step.slot_of.numpy(),
        step.local.numpy(),
        step.total_len.numpy(),
        step.slots.numpy(),
        step.rows.numpy(),
        step.report.numpy(),
        end_id,
    )


@jit
def _settle(
    logits: Array,
    slot_of: Array,
    local: Array,
    total_len: Array,
    slots: Array,
    rows: Array,
    report: Array,
    end_id: int,
) -> None:
    for row in range(slot_of.shape[0]):
        slot = slot_of[row]
        if slot < 0 or slots[slot, _POLICY] == _NOT_STEERED:
            continue
        if slots[slot, _CLOSED]:
            logits[row] = -np.inf
            logits[row, end_id] = 0.0
            continue
        report[_STEERED] += 1
        report[_INTERCEPTED] += rows[row, _ROW_BEGUN]
        left = False
        for token in range(logits.shape[1]):
            if logits[row, token] != -np.inf:
                left = True
                break
        if not left:
            logits[row, end_id] = 0.0
            at = total_len[slot] + local[row]
            slots[slot, _CLOSE_AT] = min(slots[slot, _CLOSE_AT], at)
            report[_FACTS + slot] = slots[slot, _NONCE] * 8 + _NOTHING_LEFT
