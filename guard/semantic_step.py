"""The step of the semantic filter where the host knows the tokens: one subtraction per batch.

Only rows of steered slots are given, and only tokens on their lists change. A token that brings its
own space begins a word wherever it stands; one that does not counts only where no word goes on.

Words of several tokens are covered by vetoes (`guard.semantic`), not by penalties. A second tier
that encodes the last words with each candidate at a word's border is not there: measured on two
shared cores, all-MiniLM-L6-v2 took 1.3 ms for one bare word in batches of 64, so 84 ms for a step
with one candidate in each of 64 rows, and the texts would have to come back from the device first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from guard.active_sets import ActiveSets
from guard.kernels import Array, short_jit
from guard.positions import Positions
from guard.stream import CharClass

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]

_WORD = int(CharClass.WORD)


def penalise(
    sets: ActiveSets,
    positions: Positions,
    slots: Int64,
    rows: Int64,
    logits: torch.Tensor,
    plain: Float32,
) -> None:
    """Subtract, in place, what the slots' active sets take from their rows' logits.

    Args:
        slots: [n] slot numbers in `positions`, after they were moved over this step's tokens.
        rows: [n] their rows, all different.
        logits: [rows, width] float32.
        plain: the same memory where a compiled loop can write into it, else without rows.
    """
    if not sets.has_penalties:
        return
    state = (sets.pool, sets.amounts, sets.bounds)
    where = (positions.sets, positions.classes, positions.unfinished, slots, rows)
    if len(plain):
        penalise_rows(*state, *where, plain)
        return
    width = logits.shape[1]
    room = int(
        (sets.bounds[positions.sets[slots], 4] - sets.bounds[positions.sets[slots], 2]).sum()
    )
    indices, amounts = np.empty(room, np.int64), np.empty(room, np.float32)
    count = penalised(*state, *where, width, indices, amounts)
    index = torch.from_numpy(indices[:count]).to(logits.device, non_blocking=True)
    amount = torch.from_numpy(amounts[:count]).to(logits.device, logits.dtype, non_blocking=True)
    logits.view(-1).index_add_(0, index, amount, alpha=-1)


@short_jit
def penalise_rows(
    pool: Array,
    amounts: Array,
    bounds: Array,
    sets: Array,
    classes: Array,
    unfinished: Array,
    slots: Array,
    rows: Array,
    logits: Array,
) -> None:
    """`penalise` on logits in this process's memory."""
    width = logits.shape[1]
    for i in range(slots.shape[0]):
        slot, row = slots[i], rows[i]
        active = sets[slot]
        inside = unfinished[slot] or classes[slot] == _WORD
        last = bounds[active, 3] if inside else bounds[active, 4]
        for k in range(bounds[active, 2], last):
            if pool[k] < width:
                logits[row, pool[k]] -= amounts[k]


@short_jit
def penalised(
    pool: Array,
    amounts: Array,
    bounds: Array,
    sets: Array,
    classes: Array,
    unfinished: Array,
    slots: Array,
    rows: Array,
    width: int,
    found: Array,
    found_amounts: Array,
) -> Any:
    """What `penalise_rows` would subtract: flat indices row * width + token, and how much."""
    count = 0
    for i in range(slots.shape[0]):
        slot = slots[i]
        active = sets[slot]
        inside = unfinished[slot] or classes[slot] == _WORD
        last = bounds[active, 3] if inside else bounds[active, 4]
        for k in range(bounds[active, 2], last):
            if pool[k] < width:
                found[count] = rows[i] * width + pool[k]
                found_amounts[count] = amounts[k]
                count += 1
    return count
