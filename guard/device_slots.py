"""What the device knows of each slot and of each row: columns of two int64 tensors.

Slots [max slots, len(SlotField)] outlive a step; rows [rows of the step, len(RowField)] are what
one kernel of a step leaves for the next.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import torch

NOT_STEERED = -1
UNSEEN = -1
NEVER = 2**31 - 1


class SlotField(IntEnum):
    """Columns of the slots."""

    POLICY = 0  # which policy's tables count; NOT_STEERED leaves the slot's rows alone
    SET = 1  # index of the active set
    STATE = 2  # trie state after the first SEEN tokens
    BEFORE = 3  # class of the last character
    PENDING = 4  # unfinished bytes, packed
    SEEN = 5  # tokens taken in; UNSEEN until the slot is seeded from its history
    CLOSED = 6  # `CloseReason`, 0 while open
    CLOSE_AT = 7  # when the token at this place is committed, the slot is closed; else NEVER
    NONCE = 8  # of the request, for the report


class RowField(IntEnum):
    """Columns of the rows."""

    STATE = 0
    BEFORE = 1
    PENDING = 2
    BEGUN = 3  # whether a begun phrase could be completed in this row


@dataclass(frozen=True, slots=True)
class Step:
    """One step's logits, what they belong to, and where the kernels keep their notes.

    Attributes:
        logits: [rows, width] float32, edited in place.
        slot_of: [rows] integers, the slot of each row. A slot's rows lie together.
        local: [rows] integers, each row's place among the rows of its slot; more than 0 are drafts.
        inputs: [rows] integers, the token fed into the model at each row.
        tokens: [slots, longest] int32, the history of every slot.
        prompt_len, total_len: [slots] int32, its prompt's and its whole length.
        rows: [rows, len(RowField)] int64.
        slots: [slots, len(SlotField)] int64.
        report: [4 + slots] int64: counters as in `Counter`, then per slot nonce * 8 + close reason.
    """

    logits: torch.Tensor
    slot_of: torch.Tensor
    local: torch.Tensor
    inputs: torch.Tensor
    tokens: torch.Tensor
    prompt_len: torch.Tensor
    total_len: torch.Tensor
    rows: torch.Tensor
    slots: torch.Tensor
    report: torch.Tensor
