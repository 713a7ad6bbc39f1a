"""The token filter's step on CPU tensors as the device does it."""

from __future__ import annotations

from typing import Any

import numpy as np

from guard.device_policy import DevicePolicy
from guard.device_slots import RowField, SlotField, Step
from guard.device_text import code_point, is_finishing, missing, runs_of, trie_of
from guard.device_vocabulary import DeviceVocabulary
from guard.kernels import Array, jit
from guard.kernels import step as transition
from guard.ledger import Counter
from guard.stream import WORD_END, WORD_START, CharClass

_POLICY = int(SlotField.POLICY)
_SET = int(SlotField.SET)
_CLOSED = int(SlotField.CLOSED)
_ROW_STATE = int(RowField.STATE)
_ROW_BEFORE = int(RowField.BEFORE)
_ROW_PENDING = int(RowField.PENDING)
_ROW_BEGUN = int(RowField.BEGUN)
_FORBIDDEN = int(Counter.FORBIDDEN_TOKENS)
_OTHER = int(CharClass.OTHER)
_SPACE = int(CharClass.SPACE)
_WORD = int(CharClass.WORD)
_START = WORD_START
_END = WORD_END


def forbid(step: Step, policy: DevicePolicy, vocabulary: DeviceVocabulary) -> None:
    """Take from the policy's rows the tokens that would complete an active phrase."""
    tables, sets = policy.tables, policy.sets
    _forbid(
        step.logits.numpy(),
        step.slot_of.numpy(),
        step.slots.numpy(),
        step.rows.numpy(),
        step.report.numpy(),
        policy.id,
        trie_of(policy),
        runs_of(vocabulary),
        (tables.out_state.numpy(), tables.phrase_open.numpy(), tables.phrase_any.numpy()),
        (
            tables.entry_state.numpy(),
            tables.entry_start.numpy(),
            tables.entry_phrase.numpy(),
            tables.entry_low.numpy(),
            tables.entry_high.numpy(),
        ),
        (sets.bits.numpy(), sets.bounds.numpy(), sets.pool.numpy()),
        vocabulary.order.numpy(),
        vocabulary.continuing.numpy(),
        vocabulary.head.numpy(),
    )


@jit
def _forbid(
    logits: Array,
    slot_of: Array,
    slots: Array,
    rows: Array,
    report: Array,
    policy: int,
    trie: Any,
    runs: Any,
    outs: Any,
    entries: Any,
    sets: Any,
    order: Array,
    continuing: Array,
    head_of: Array,
) -> None:
    entry_state, entry_start, entry_phrase, entry_low, entry_high = entries
    bits, bounds, pool = sets
    fail = trie[2]
    width = logits.shape[1]
    for row in range(slot_of.shape[0]):
        slot = slot_of[row]
        if slot < 0 or slots[slot, _POLICY] != policy or slots[slot, _CLOSED]:
            continue
        active = slots[slot, _SET]
        state, before = rows[row, _ROW_STATE], rows[row, _ROW_BEFORE]
        pending = rows[row, _ROW_PENDING]
        count = 0
        if pending:
            for c in range(continuing.shape[0]):
                if continuing[c] < width and _finishes(
                    trie, runs, outs, bits, active, state, before, pending, c, continuing, head_of
                ):
                    logits[row, continuing[c]] = -np.inf
                    count += 1
            # All other tokens leave the character broken, so the text begins anew behind it.
            state, before = 0, _OTHER
        last = bounds[active, 1] if before == _WORD else bounds[active, 2]
        for k in range(bounds[active, 0], last):
            finishing = pending and is_finishing(pending, head_of[pool[k]])
            if pool[k] < width and not finishing:
                logits[row, pool[k]] = -np.inf
                count += 1
        begun = count
        state = entry_state[state]
        while state:
            for entry in range(entry_start[state], entry_start[state + 1]):
                if _is_on(bits, active, entry_phrase[entry]):
                    for k in range(entry_low[entry], entry_high[entry]):
                        if order[k] < width:
                            logits[row, order[k]] = -np.inf
                            count += 1
            state = entry_state[fail[state]]
        rows[row, _ROW_BEGUN] = count > begun
        report[_FORBIDDEN] += count


@jit
def _is_on(bits: Array, active: int, phrase: int) -> Any:
    return (bits[active, phrase >> 3] >> (phrase & 7)) & 1 != 0


@jit
def _finishes(
    trie: Any,
    runs: Any,
    outs: Any,
    bits: Array,
    active: int,
    state: int,
    before: int,
    pending: int,
    c: int,
    continuing: Array,
    head_of: Array,
) -> Any:
    """Whether a token finishes the pending character and an active phrase with it."""
    body, start, first, last = runs
    head = head_of[continuing[c]]
    if not is_finishing(pending, head):
        return False
    need = missing(pending)
    size = head_of.shape[0]
    char = size + 3 * continuing.shape[0] + code_point(pending, head)
    tail = size + 3 * c + need - 1
    for run in (char, tail):
        low, high = start[run], start[run + 1]
        if low == high:
            continue
        if first[run] == _WORD and before != _WORD:
            state = transition(trie[0], trie[1], trie[2], state, _START)
        elif first[run] != _WORD and before == _WORD:
            state = transition(trie[0], trie[1], trie[2], state, _END)
        elif first[run] == _SPACE and before == _SPACE:
            low += 1
        # The word goes on after the character if the rest begins with more of it.
        goes_on = run == char and start[tail] < start[tail + 1] and first[tail] == _WORD
        for i in range(low, high):
            state = transition(trie[0], trie[1], trie[2], state, body[i])
            border = not goes_on if i + 1 == high else body[i + 1] == _END
            if _occurs(trie[2], outs, bits, active, state, border):
                return True
        before = last[run]
    return False


@jit
def _occurs(fail: Array, outs: Any, bits: Array, active: int, state: int, border: bool) -> Any:
    """Whether an active phrase ends in this state."""
    out_state, phrase_open, phrase_any = outs
    state = out_state[state]
    while state:
        if phrase_any[state] >= 0 and _is_on(bits, active, phrase_any[state]):
            return True
        if border and phrase_open[state] >= 0 and _is_on(bits, active, phrase_open[state]):
            return True
        state = out_state[fail[state]]
    return False
