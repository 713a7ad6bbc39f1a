"""The loops of a decode step: all rows of a batch in one call.

Compiled by numba like `guard.kernels`; array arguments are those of `guard.automaton.Tables`,
`guard.stream.Streams`, `guard.active_sets.ActiveSets` and `guard.positions.Positions`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from guard.kernels import Array, find, is_on, jit, short_jit
from guard.stream import WORD_END, WORD_START, CharClass

_SPACE = int(CharClass.SPACE)
_WORD = int(CharClass.WORD)
_START = WORD_START
_END = WORD_END
_ASKED = 64


@jit
def forbid(logits: Array, out: Array, row: int, width: int, token: int, count: int) -> Any:
    """Take one token away from a row: in the logits, or as a flat index where there are none."""
    if token >= width:
        return count
    if logits.shape[0]:
        logits[row, token] = -np.inf
    elif count < out.shape[0]:
        out[count] = row * width + token
    return count + 1


@jit
def forbid_standing(
    pool: Array,
    bounds: Array,
    active: int,
    before: int,
    logits: Array,
    out: Array,
    row: int,
    width: int,
    count: int,
) -> Any:
    """Forbid the tokens that complete a phrase by themselves, wherever the row stands."""
    last = bounds[active, 1] if before == _WORD else bounds[active, 2]
    for k in range(bounds[active, 0], last):
        count = forbid(logits, out, row, width, pool[k], count)
    return count


@jit
def forbid_begun(
    fail: Array,
    entry_state: Array,
    entry_start: Array,
    entry_phrase: Array,
    entry_low: Array,
    entry_high: Array,
    order: Array,
    bits: Array,
    active: int,
    state: int,
    logits: Array,
    out: Array,
    row: int,
    width: int,
    count: int,
) -> Any:
    """Forbid the tokens that complete a phrase that the row has begun."""
    state = entry_state[state]
    while state:
        for entry in range(entry_start[state], entry_start[state + 1]):
            if is_on(bits, active, entry_phrase[entry]):
                for k in range(entry_low[entry], entry_high[entry]):
                    count = forbid(logits, out, row, width, order[k], count)
        state = entry_state[fail[state]]
    return count


@jit
def begin_rows(
    body_start: Array,
    body_first: Array,
    body_last: Array,
    has_pending: Array,
    states: Array,
    classes: Array,
    unfinished: Array,
    slots: Array,
    tokens: Array,
    work: Array,
) -> Any:
    """Note in `work` what each row has to read; gives the number of rows that read anything.

    Columns of `work` [room, 6]: slot, state, the border symbol in front or 0, then the place in the
    bodies' bytes and its end. The last is for `walk_rows`.
    """
    count = 0
    for i in range(slots.shape[0]):
        slot, token = slots[i], tokens[i]
        # Ids behind the vocabulary are padding of the model's, which no text is made of.
        if token < 0 or token >= has_pending.shape[0] or unfinished[slot]:
            continue
        unfinished[slot] = has_pending[token]
        low, high = body_start[token], body_start[token + 1]
        if low == high:
            continue
        first, before = body_first[token], classes[slot]
        border = 0
        if first == _WORD:
            if before != _WORD:
                border = _START
        elif before == _WORD:
            border = _END
        elif first == _SPACE and before == _SPACE:
            low += 1
        work[count, 0], work[count, 1], work[count, 2] = slot, states[slot], border
        work[count, 3], work[count, 4] = low, high
        classes[slot] = body_last[token]
        if border or low < high:
            count += 1
    return count


@jit
def walk_rows(
    first_child: Array,
    label: Array,
    fail: Array,
    body: Array,
    states: Array,
    work: Array,
    count: int,
) -> Any:
    """Walk all rows of `work` side by side, each over its bytes.

    In a large automaton every transition waits for memory. A row therefore only asks for what it
    will need and gives way to the next one; when its turn comes again, the memory has arrived. The
    sum of what was asked for is returned so that it is really read.
    """
    asked = 0
    for i in range(count):
        asked += first_child[work[i, 1]]
    while count:
        for i in range(count):
            low = first_child[work[i, 1]]
            work[i, 5] = low
            asked += label[min(low, label.shape[0] - 1)]
        i = 0
        while i < count:
            state, low = work[i, 1], work[i, 5]
            symbol = work[i, 2] or np.int64(body[work[i, 3]])
            end = np.int64(first_child[state + 1])
            found = find(label, low, end, symbol)
            if found or not state:
                if work[i, 2]:
                    work[i, 2] = 0
                else:
                    work[i, 3] += 1
                state = found
            else:
                state = fail[state]
            work[i, 1] = state
            asked += first_child[state]
            if work[i, 3] == work[i, 4] and not work[i, 2]:
                states[work[i, 0]] = state
                count -= 1
                work[i] = work[count]
            else:
                i += 1
    return asked


@jit
def ask_for_logits(
    pool: Array, bounds: Array, sets: Array, slots: Array, rows: Array, width: int, logits: Array
) -> Any:
    """Read what `forbid_standing` will write, so that it is on its way while the rows walk."""
    asked = np.float32(0)
    for i in range(slots.shape[0]):
        first, last = bounds[sets[slots[i]], 0], bounds[sets[slots[i]], 2]
        for k in range(first, min(last, first + _ASKED)):
            if pool[k] < width:
                asked += logits[rows[i], pool[k]]
    return asked


@short_jit
def step_rows(
    first_child: Array,
    label: Array,
    fail: Array,
    entry_state: Array,
    entry_start: Array,
    entry_phrase: Array,
    entry_low: Array,
    entry_high: Array,
    body: Array,
    body_start: Array,
    body_first: Array,
    body_last: Array,
    has_pending: Array,
    order: Array,
    bits: Array,
    pool: Array,
    bounds: Array,
    states: Array,
    classes: Array,
    unfinished: Array,
    sets: Array,
    slots: Array,
    tokens: Array,
    rows: Array,
    width: int,
    logits: Array,
    out: Array,
    work: Array,
    totals: Array,
) -> None:
    """One decode step: move each slot over its token, then forbid what its row may not take next.

    `slots`, `tokens` (-1: none) and `rows` [n] are this step's; `states`, `classes`, `unfinished`
    and `sets` [capacity] are `guard.positions.Positions`. `bounds` [sets, 5] delimits each active
    set's tokens in `pool`: always forbidden, then forbidden at the start of a word. `work` [at
    least n, 6] int64 is the loops' own; its first column then says of each slot whether a begun
    phrase could be completed.

    Writes minus infinity into `logits` [rows, width] float32; where that has no rows, flat indices
    row * width + token into `out`. `totals` becomes: forbidden tokens (when more than `out` holds,
    only the first are written and the caller comes again with more room), rows in which a begun
    phrase could be completed, rows that stand inside a character. Those are left to the caller.
    """
    reading = begin_rows(
        body_start,
        body_first,
        body_last,
        has_pending,
        states,
        classes,
        unfinished,
        slots,
        tokens,
        work,
    )
    if logits.shape[0]:
        asked = ask_for_logits(pool, bounds, sets, slots, rows, width, logits)
        totals[3] = asked > 0
    totals[4] = walk_rows(first_child, label, fail, body, states, work, reading)
    count, begun, inside = 0, 0, 0
    for i in range(slots.shape[0]):
        slot, row = slots[i], rows[i]
        work[i, 0] = 0
        if unfinished[slot]:
            inside += 1
            continue
        active = sets[slot]
        count = forbid_standing(pool, bounds, active, classes[slot], logits, out, row, width, count)
        before = count
        count = forbid_begun(
            fail,
            entry_state,
            entry_start,
            entry_phrase,
            entry_low,
            entry_high,
            order,
            bits,
            active,
            states[slot],
            logits,
            out,
            row,
            width,
            count,
        )
        work[i, 0] = count > before
        begun += count > before
    totals[0], totals[1], totals[2] = count, begun, inside


@short_jit
def nothing_left(logits: Array, rows: Array, result: Array) -> None:
    """Per row whether all its logits are minus infinity; `result` [n] bool."""
    for i in range(rows.shape[0]):
        result[i] = True
        for token in range(logits.shape[1]):
            if logits[rows[i], token] != -np.inf:
                result[i] = False
                break
