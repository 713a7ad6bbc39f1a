"""What the Triton kernels know when they are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl

from guard.device_slots import NEVER as _NEVER
from guard.device_slots import NOT_STEERED as _NOT_STEERED
from guard.device_slots import RowField, SlotField
from guard.device_vocabulary import TRANSPARENT as _TRANSPARENT
from guard.ledger import CloseReason, Counter
from guard.stream import WORD_END, WORD_START, CharClass


def jit(function: Callable[..., Any]) -> Any:
    """A function that kernels call."""
    return triton.jit(function)


PARTS = tl.constexpr(8)
LANES = tl.constexpr(128)
ENTRIES = tl.constexpr(16)
WIDE = tl.constexpr(32)
SETTLED = tl.constexpr(4096)
CHILDREN = tl.constexpr(256)

FIELDS = tl.constexpr(len(SlotField))
POLICY = tl.constexpr(int(SlotField.POLICY))
SET = tl.constexpr(int(SlotField.SET))
BOUNDS = tl.constexpr(5)  # columns of `guard.active_sets.ActiveSets.bounds`
STATE = tl.constexpr(int(SlotField.STATE))
BEFORE = tl.constexpr(int(SlotField.BEFORE))
PENDING = tl.constexpr(int(SlotField.PENDING))
SEEN = tl.constexpr(int(SlotField.SEEN))
CLOSED = tl.constexpr(int(SlotField.CLOSED))
CLOSE_AT = tl.constexpr(int(SlotField.CLOSE_AT))
NONCE = tl.constexpr(int(SlotField.NONCE))
ROW_FIELDS = tl.constexpr(len(RowField))
ROW_STATE = tl.constexpr(int(RowField.STATE))
ROW_BEFORE = tl.constexpr(int(RowField.BEFORE))
ROW_PENDING = tl.constexpr(int(RowField.PENDING))
ROW_BEGUN = tl.constexpr(int(RowField.BEGUN))
FORBIDDEN = tl.constexpr(int(Counter.FORBIDDEN_TOKENS))
INTERCEPTED = tl.constexpr(int(Counter.INTERCEPTED_STEPS))
STEERED = tl.constexpr(int(Counter.STEERED_STEPS))
VETOED = tl.constexpr(int(Counter.VETOED_TOKENS))
FACTS = tl.constexpr(int(Counter.VETOED_TOKENS) + 1)
NOTHING_LEFT = tl.constexpr(int(CloseReason.NOTHING_LEFT))
NEVER = tl.constexpr(_NEVER)
NOT_STEERED = tl.constexpr(_NOT_STEERED)
TRANSPARENT = tl.constexpr(_TRANSPARENT)
OTHER = tl.constexpr(int(CharClass.OTHER))
SPACE = tl.constexpr(int(CharClass.SPACE))
WORD = tl.constexpr(int(CharClass.WORD))
START = tl.constexpr(WORD_START)
END = tl.constexpr(WORD_END)
