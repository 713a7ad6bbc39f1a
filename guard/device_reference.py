"""The device kernels on CPU tensors, one row after the other: what `guard.device_kernels` must do.

The same functions with the same arguments. It is what runs where the logits are on the CPU,
and the plain form that the GPU kernels are tested against.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from guard.device_penalties import penalise
from guard.device_policy import DevicePolicy
from guard.device_slots import NEVER, NOT_STEERED, RowField, SlotField, Step
from guard.device_veto import veto
from guard.device_vocabulary import TRANSPARENT, DeviceVocabulary
from guard.kernels import Array, jit, walk
from guard.kernels import step as transition
from guard.ledger import CloseReason, Counter
from guard.stream import WORD_END, WORD_START, CharClass

__all__ = ["follow", "forbid", "penalise", "settle", "veto"]

_POLICY = int(SlotField.POLICY)
_SET = int(SlotField.SET)
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
_FORBIDDEN = int(Counter.FORBIDDEN_TOKENS)
_INTERCEPTED = int(Counter.INTERCEPTED_STEPS)
_STEERED = int(Counter.STEERED_STEPS)
_NOTHING_LEFT = int(CloseReason.NOTHING_LEFT)
_FACTS = int(Counter.VETOED_TOKENS) + 1
_NEVER = NEVER
_NOT_STEERED = NOT_STEERED
_TRANSPARENT = TRANSPARENT
_OTHER = int(CharClass.OTHER)
_SPACE = int(CharClass.SPACE)
_WORD = int(CharClass.WORD)
_START = WORD_START
_END = WORD_END


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
        _trie(policy),
        _runs(vocabulary),
        vocabulary.pending.numpy(),
        vocabulary.head.numpy(),
        vocabulary.tail.numpy(),
        vocabulary.weight.numpy(),
    )


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
        _trie(policy),
        _runs(vocabulary),
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


def _trie(policy: DevicePolicy) -> tuple[Array, Array, Array]:
    tables = policy.tables
    return tables.first_child.numpy(), tables.label.numpy(), tables.fail.numpy()


def _runs(vocabulary: DeviceVocabulary) -> tuple[Array, Array, Array, Array]:
    return (
        vocabulary.run_bytes.numpy(),
        vocabulary.run_start.numpy(),
        vocabulary.run_first.numpy(),
        vocabulary.run_last.numpy(),
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
            seen = _begin(tokens[slot], prompt_len[slot], total, reach, pending_of, weight)
        for i in range(seen, total):
            state, before, pending = _take(
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
            state, before, pending = _take(
                trie, runs, pending_of, head_of, tail_of, state, before, pending, inputs[row]
            )


@jit
def _begin(
    tokens: Array, prompt_len: int, total: int, reach: int, pending_of: Array, weight: Array
) -> Any:
    """Where to begin reading a history so that nothing a phrase can reach is left out."""
    found = 0
    at = total
    while at > 0 and found <= reach:
        token = tokens[at - 1]
        known = 0 <= token < weight.shape[0] and pending_of[token] != _TRANSPARENT
        if known:
            found += weight[token]
        elif at <= prompt_len:
            break
        at -= 1
    return at


@jit
def _take(
    trie: Any,
    runs: Any,
    pending_of: Array,
    head_of: Array,
    tail_of: Array,
    state: int,
    before: int,
    pending: int,
    token: int,
) -> Any:
    """State, class and pending bytes after one token."""
    if not 0 <= token < head_of.shape[0] or pending_of[token] == _TRANSPARENT:
        return state, before, pending
    if pending:
        head = head_of[token]
        count, need = head & 3, _missing(pending)
        if count and _goes_on(pending, head):
            if count >= need:
                point = _code_point(pending, head)
                tail = head_of.shape[0] + 3 * tail_of[token] + need - 1
                state, before = _read(trie, runs, state, before, pending_of.shape[0] + point)
                state, before = _read(trie, runs, state, before, tail)
                return state, before, pending_of[tail]
            if head & 4:
                return state, before, _joined(pending, head)
        # The character stays broken: a replacement character, which is in no phrase.
        state, before = 0, _OTHER
    state, before = _read(trie, runs, state, before, token)
    return state, before, pending_of[token]


@jit
def _read(trie: Any, runs: Any, state: int, before: int, run: int) -> Any:
    first_child, label, fail = trie
    body, start, first, last = runs
    low, high = start[run], start[run + 1]
    if low == high:
        return state, before
    state = walk(first_child, label, fail, state, before, body, low, high, first[run])
    return state, last[run]


@jit
def _held(pending: int) -> Any:
    """How many bytes are pending."""
    return 1 + (pending > 0xFF) + (pending > 0xFFFF)


@jit
def _missing(pending: int) -> Any:
    """How many bytes the pending character still needs."""
    lead = pending & 0xFF
    return 2 + (lead >= 0xE0) + (lead >= 0xF0) - _held(pending)


@jit
def _goes_on(pending: int, head: int) -> Any:
    """Whether the head's first byte may follow: some lead bytes narrow the second byte."""
    if pending > 0xFF:
        return True
    second = 0x80 | head >> 3 & 0x3F
    if pending == 0xE0:
        return second >= 0xA0
    if pending == 0xED:
        return second < 0xA0
    if pending == 0xF0:
        return second >= 0x90
    return pending != 0xF4 or second < 0x90


@jit
def _is_finishing(pending: int, head: int) -> Any:
    """Whether a token with this head finishes the pending character."""
    return (head & 3) >= _missing(pending) and _goes_on(pending, head)


@jit
def _code_point(pending: int, head: int) -> Any:
    """The code point that the pending bytes and the head finish."""
    lead = pending & 0xFF
    held, need = _held(pending), _missing(pending)
    point = lead & (0x1F if lead < 0xE0 else 0x0F if lead < 0xF0 else 0x07)
    for i in range(1, held):
        point = point << 6 | pending >> 8 * i & 0x3F
    for i in range(need):
        point = point << 6 | head >> 3 + 6 * i & 0x3F
    return point


@jit
def _joined(pending: int, head: int) -> Any:
    """The pending bytes with all of the head behind them."""
    held = _held(pending)
    for i in range(head & 3):
        pending |= (0x80 | head >> 3 + 6 * i & 0x3F) << 8 * (held + i)
    return pending


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
            finishing = pending and _is_finishing(pending, head_of[pool[k]])
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
    if not _is_finishing(pending, head):
        return False
    need = _missing(pending)
    size = head_of.shape[0]
    char = size + 3 * continuing.shape[0] + _code_point(pending, head)
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
