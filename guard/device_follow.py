"""Following texts on CPU tensors as the device does it."""

from __future__ import annotations

from typing import Any

from guard.device_policy import DevicePolicy
from guard.device_slots import NEVER, RowField, SlotField, Step
from guard.device_text import begin, runs_of, take, trie_of
from guard.device_vocabulary import DeviceVocabulary
from guard.kernels import Array, jit
from guard.ledger import CloseReason, Counter

_POLICY = int(SlotField.POLICY)
_STATE = int(SlotField.STATE)
_BEFORE = int(SlotField.BEFORE)
_PENDING = int(SlotField.PENDING)
_SEEN = int(SlotField.SEEN)
_CLOSED = int(SlotField.CLOSED)
_CLOSE_AT = int(SlotField.CLOSE_AT)
_NONCE = int(SlotField.NONCE)
_ROW_STATE = int(RowField.STATE)
_ROW_BEFORE = int(RowField.BEFORE)
_ROW_PENDING = int(RowField.PENDING)
_ROW_BEGUN = int(RowField.BEGUN)
_NOTHING_LEFT = int(CloseReason.NOTHING_LEFT)
_FACTS = int(Counter.VETOED_TOKENS) + 1
_NEVER = NEVER


def follow(step: Step, policy: DevicePolicy, vocabulary: DeviceVocabulary) -> None:
    """Move the policy's slots over their new tokens, and leave every row where its text stands.

    Draft tokens move the rows, never the slot. A slot that is not seeded yet is read from its
    history: the output across special tokens, the prompt from its last one on, and of both no more
    than a phrase can reach back.
    """
    _follow(
        step.slot_of.numpy(),
        step.local.numpy(),
        step.inputs.numpy(),
        step.tokens.numpy(),
        step.prompt_len.numpy(),
        step.total_len.numpy(),
        step.slots.numpy(),
        step.rows.numpy(),
        step.report.numpy(),
        policy.id,
        policy.longest,
        trie_of(policy),
        runs_of(vocabulary),
        vocabulary.pending.numpy(),
        vocabulary.head.numpy(),
        vocabulary.tail.numpy(),
        vocabulary.weight.numpy(),
    )


@jit
def _follow(
    slot_of: Array,
    local: Array,
    inputs: Array,
    tokens: Array,
    prompt_len: Array,
    total_len: Array,
    slots: Array,
    rows: Array,
    report: Array,
    policy: int,
    reach: int,
    trie: Any,
    runs: Any,
    pending_of: Array,
    head_of: Array,
    tail_of: Array,
    weight: Array,
) -> None:
    for first in range(slot_of.shape[0]):
        slot = slot_of[first]
        if local[first] != 0 or slot < 0 or slots[slot, _POLICY] != policy:
            continue
        if slots[slot, _CLOSED]:
            continue
        total = total_len[slot]
        if slots[slot, _CLOSE_AT] != _NEVER:
            if total > slots[slot, _CLOSE_AT]:
                slots[slot, _CLOSED] = _NOTHING_LEFT
                continue
            # The row that had nothing left was a draft that has been rejected.
            slots[slot, _CLOSE_AT] = _NEVER
            report[_FACTS + slot] = slots[slot, _NONCE] * 8
        state, before = slots[slot, _STATE], slots[slot, _BEFORE]
        pending = slots[slot, _PENDING]
        seen = slots[slot, _SEEN]
        if seen < 0:
            seen = begin(tokens[slot], prompt_len[slot], total, reach, pending_of, weight)
        for i in range(seen, total):
            state, before, pending = take(
                trie, runs, pending_of, head_of, tail_of, state, before, pending, tokens[slot, i]
            )
        slots[slot, _STATE], slots[slot, _BEFORE] = state, before
        slots[slot, _PENDING], slots[slot, _SEEN] = pending, total
        row = first
        while True:
            rows[row, _ROW_STATE], rows[row, _ROW_BEFORE] = state, before
            rows[row, _ROW_PENDING], rows[row, _ROW_BEGUN] = pending, 0
            row += 1
            if row == slot_of.shape[0] or slot_of[row] != slot or local[row] != row - first:
                break
            state, before, pending = take(
                trie, runs, pending_of, head_of, tail_of, state, before, pending, inputs[row]
            )
