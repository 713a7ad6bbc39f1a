"""The device kernels on a GPU, in Triton: `guard.device_reference`, one program for each row.

A text is followed byte by byte, so `follow` is one warp per request that looks at all children of
a trie state at once. What is forbidden is written by several programs per row. The bytes of a
character that was split over tokens are put together lane by lane, one lane for each token that
could finish it.

No argument changes what is compiled from one step to the next: numbers are not specialised.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import triton
import triton.language as tl

from guard.device_policy import DevicePolicy
from guard.device_slots import NEVER, NOT_STEERED, RowField, SlotField, Step
from guard.device_vocabulary import TRANSPARENT, DeviceVocabulary
from guard.ledger import CloseReason, Counter
from guard.stream import WORD_END, WORD_START, CharClass

_PARTS = tl.constexpr(8)
_LANES = tl.constexpr(128)
_ENTRIES = tl.constexpr(16)
_WIDE = tl.constexpr(32)
_SETTLED = tl.constexpr(4096)
_CHILDREN = tl.constexpr(256)

_FIELDS = tl.constexpr(len(SlotField))
_POLICY = tl.constexpr(int(SlotField.POLICY))
_SET = tl.constexpr(int(SlotField.SET))
_STATE = tl.constexpr(int(SlotField.STATE))
_BEFORE = tl.constexpr(int(SlotField.BEFORE))
_PENDING = tl.constexpr(int(SlotField.PENDING))
_SEEN = tl.constexpr(int(SlotField.SEEN))
_CLOSED = tl.constexpr(int(SlotField.CLOSED))
_CLOSE_AT = tl.constexpr(int(SlotField.CLOSE_AT))
_NONCE = tl.constexpr(int(SlotField.NONCE))
_ROW_FIELDS = tl.constexpr(len(RowField))
_ROW_STATE = tl.constexpr(int(RowField.STATE))
_ROW_BEFORE = tl.constexpr(int(RowField.BEFORE))
_ROW_PENDING = tl.constexpr(int(RowField.PENDING))
_ROW_BEGUN = tl.constexpr(int(RowField.BEGUN))
_FORBIDDEN = tl.constexpr(int(Counter.FORBIDDEN_TOKENS))
_INTERCEPTED = tl.constexpr(int(Counter.INTERCEPTED_STEPS))
_STEERED = tl.constexpr(int(Counter.STEERED_STEPS))
_FACTS = tl.constexpr(3)
_NOTHING_LEFT = tl.constexpr(int(CloseReason.NOTHING_LEFT))
_NEVER = tl.constexpr(NEVER)
_NOT_STEERED = tl.constexpr(NOT_STEERED)
_TRANSPARENT = tl.constexpr(TRANSPARENT)
_OTHER = tl.constexpr(int(CharClass.OTHER))
_SPACE = tl.constexpr(int(CharClass.SPACE))
_WORD = tl.constexpr(int(CharClass.WORD))
_START = tl.constexpr(WORD_START)
_END = tl.constexpr(WORD_END)


def _jit(function: Callable[..., Any]) -> Any:
    return triton.jit(function)


def _kernel(*numbers: str, unaligned: tuple[str, ...]) -> Callable[[Callable[..., Any]], Any]:
    made = triton.jit(do_not_specialize=numbers, do_not_specialize_on_alignment=unaligned)
    return cast(Callable[[Callable[..., Any]], Any], made)


def follow(step: Step, policy: DevicePolicy, vocabulary: DeviceVocabulary) -> None:
    """See `guard.device_reference.follow`."""
    _follow[(step.slot_of.shape[0],)](
        step.slot_of,
        step.local,
        step.inputs,
        step.slot_of.shape[0],
        step.tokens,
        step.tokens.stride(0),
        step.prompt_len,
        step.total_len,
        step.slots,
        step.rows,
        step.report,
        policy.id,
        policy.longest,
        *_trie(policy),
        *_runs(vocabulary),
        vocabulary.pending,
        vocabulary.head,
        vocabulary.tail,
        vocabulary.weight,
        vocabulary.size,
        vocabulary.num_continuing,
        num_warps=1,
    )


def forbid(step: Step, policy: DevicePolicy, vocabulary: DeviceVocabulary) -> None:
    """See `guard.device_reference.forbid`."""
    tables, sets = policy.tables, policy.sets
    _forbid[(step.slot_of.shape[0], _PARTS.value)](
        step.logits,
        step.logits.stride(0),
        step.logits.shape[1],
        step.slot_of,
        step.slots,
        step.rows,
        step.report,
        policy.id,
        *_trie(policy),
        *_runs(vocabulary),
        tables.out_state,
        tables.phrase_open,
        tables.phrase_any,
        tables.entry_state,
        tables.entry_start,
        tables.entry_phrase,
        tables.entry_low,
        tables.entry_high,
        sets.bits,
        sets.bits.stride(0),
        sets.bounds,
        sets.pool,
        vocabulary.order,
        vocabulary.continuing,
        vocabulary.head,
        vocabulary.size,
        vocabulary.num_continuing,
        num_warps=4,
    )


def settle(step: Step, end_id: int) -> None:
    """See `guard.device_reference.settle`."""
    _settle[(step.slot_of.shape[0],)](
        step.logits,
        step.logits.stride(0),
        step.logits.shape[1],
        step.slot_of,
        step.local,
        step.total_len,
        step.slots,
        step.rows,
        step.report,
        end_id,
        num_warps=8,
    )


def _trie(policy: DevicePolicy) -> tuple[Any, ...]:
    return policy.tables.first_child, policy.tables.label, policy.tables.fail


def _runs(vocabulary: DeviceVocabulary) -> tuple[Any, ...]:
    return (
        vocabulary.run_bytes,
        vocabulary.run_start,
        vocabulary.run_first,
        vocabulary.run_last,
    )


@_kernel(
    "num_rows",
    "tokens_stride",
    "policy",
    "reach",
    "size",
    "num_continuing",
    unaligned=("slot_of", "local", "inputs"),
)
def _follow(
    slot_of: tl.tensor,
    local: tl.tensor,
    inputs: tl.tensor,
    num_rows: tl.tensor,
    tokens: tl.tensor,
    tokens_stride: tl.tensor,
    prompt_len: tl.tensor,
    total_len: tl.tensor,
    slots: tl.tensor,
    rows: tl.tensor,
    report: tl.tensor,
    policy: tl.tensor,
    reach: tl.tensor,
    first_child: tl.tensor,
    label: tl.tensor,
    fail: tl.tensor,
    run_bytes: tl.tensor,
    run_start: tl.tensor,
    run_first: tl.tensor,
    run_last: tl.tensor,
    pending_of: tl.tensor,
    head_of: tl.tensor,
    tail_of: tl.tensor,
    weight: tl.tensor,
    size: tl.tensor,
    num_continuing: tl.tensor,
) -> None:
    first = tl.program_id(0)
    slot = tl.load(slot_of + first).to(tl.int64)
    if slot < 0:
        return
    here = slots + slot * _FIELDS
    leads = (tl.load(local + first) == 0) & (tl.load(here + _POLICY) == policy)
    if (leads & (tl.load(here + _CLOSED) == 0)) == 0:
        return
    total = tl.load(total_len + slot).to(tl.int32)
    close_at = tl.load(here + _CLOSE_AT).to(tl.int32)
    if (close_at != _NEVER) & (total > close_at):
        tl.store(here + _CLOSED, _NOTHING_LEFT)
        return
    if close_at != _NEVER:
        # The row that had nothing left was a draft that has been rejected.
        tl.store(here + _CLOSE_AT, _NEVER)
        tl.store(report + _FACTS + slot, tl.load(here + _NONCE) * 8)
    state = tl.load(here + _STATE).to(tl.int32)
    before = tl.load(here + _BEFORE).to(tl.int32)
    pending = tl.load(here + _PENDING).to(tl.int32)
    seen = tl.load(here + _SEEN).to(tl.int32)
    history = tokens + slot * tokens_stride
    if seen < 0:
        prompt = tl.load(prompt_len + slot).to(tl.int32)
        seen = _begin(history, prompt, total, reach, pending_of, weight, size)
    while seen < total:
        state, before, pending = _take(
            first_child,
            label,
            fail,
            run_bytes,
            run_start,
            run_first,
            run_last,
            pending_of,
            head_of,
            tail_of,
            size,
            num_continuing,
            state,
            before,
            pending,
            tl.load(history + seen).to(tl.int32),
        )
        seen += 1
    tl.store(here + _STATE, state)
    tl.store(here + _BEFORE, before)
    tl.store(here + _PENDING, pending)
    tl.store(here + _SEEN, total)
    row = first
    more = (slot >= 0).to(tl.int32)
    while more != 0:
        note = rows + row.to(tl.int64) * _ROW_FIELDS
        tl.store(note + _ROW_STATE, state)
        tl.store(note + _ROW_BEFORE, before)
        tl.store(note + _ROW_PENDING, pending)
        tl.store(note + _ROW_BEGUN, 0)
        row += 1
        there = row < num_rows
        same = tl.load(slot_of + row, mask=there, other=-1).to(tl.int64) == slot
        place = tl.load(local + row, mask=there, other=0).to(tl.int32)
        more = (same & (place == row - first)).to(tl.int32)
        state, before, pending = _take(
            first_child,
            label,
            fail,
            run_bytes,
            run_start,
            run_first,
            run_last,
            pending_of,
            head_of,
            tail_of,
            size,
            num_continuing,
            state,
            before,
            pending,
            tl.load(inputs + row, mask=more != 0, other=-1).to(tl.int32),
        )


@_jit
def _begin(
    history: tl.tensor,
    prompt: tl.tensor,
    total: tl.tensor,
    reach: tl.tensor,
    pending_of: tl.tensor,
    weight: tl.tensor,
    size: tl.tensor,
) -> tl.tensor:
    at = total
    found = total * 0
    stop = total * 0
    while (at > 0) & (found <= reach) & (stop == 0):
        place = tl.maximum(at - _LANES, 0) + tl.arange(0, _LANES)
        inside = place < at
        token = tl.load(history + place, mask=inside, other=-1).to(tl.int32)
        known = inside & (token >= 0) & (token < size)
        known = known & (
            tl.load(pending_of + token, mask=known, other=_TRANSPARENT) != _TRANSPARENT
        )
        barrier = inside & (known == 0) & (place < prompt)
        stop = tl.max(tl.where(barrier, place + 1, 0), axis=0)
        inside = inside & (place >= stop)
        weights = tl.load(weight + token, mask=known & inside, other=0)
        found += tl.sum(weights, axis=0)
        # A token is read if what lies behind it is not enough.
        needed = inside & (found - tl.cumsum(weights, axis=0) <= reach)
        at = tl.min(tl.where(needed, place, at), axis=0)
    return at


@_jit
def _take(
    first_child: tl.tensor,
    label: tl.tensor,
    fail: tl.tensor,
    run_bytes: tl.tensor,
    run_start: tl.tensor,
    run_first: tl.tensor,
    run_last: tl.tensor,
    pending_of: tl.tensor,
    head_of: tl.tensor,
    tail_of: tl.tensor,
    size: tl.tensor,
    num_continuing: tl.tensor,
    state: tl.tensor,
    before: tl.tensor,
    pending: tl.tensor,
    token: tl.tensor,
) -> tl.tensor:
    known = (token >= 0) & (token < size)
    left = tl.load(pending_of + token, mask=known, other=_TRANSPARENT)
    if left != _TRANSPARENT:
        run = token
        joins = token < 0
        if pending != 0:
            head = tl.load(head_of + token)
            finishes = _is_finishing(pending, head)
            joins = ((head & 7) > 4) & (finishes == 0) & _goes_on(pending, head)
            if finishes:
                state, before = _read(
                    first_child,
                    label,
                    fail,
                    run_bytes,
                    run_start,
                    run_first,
                    run_last,
                    state,
                    before,
                    size + 3 * num_continuing + _code_point(pending, head),
                )
                run = size + 3 * tl.load(tail_of + token) + _missing(pending) - 1
                left = tl.load(pending_of + run)
            if joins:
                left = _joined(pending, head)
            # Else it stays broken: a replacement character, which is in no phrase.
            state = tl.where(finishes | joins, state, 0)
            before = tl.where(finishes | joins, before, _OTHER)
        if joins == 0:
            state, before = _read(
                first_child,
                label,
                fail,
                run_bytes,
                run_start,
                run_first,
                run_last,
                state,
                before,
                run,
            )
        pending = left
    return state, before, pending


@_jit
def _read(
    first_child: tl.tensor,
    label: tl.tensor,
    fail: tl.tensor,
    run_bytes: tl.tensor,
    run_start: tl.tensor,
    run_first: tl.tensor,
    run_last: tl.tensor,
    state: tl.tensor,
    before: tl.tensor,
    run: tl.tensor,
) -> tl.tensor:
    low = tl.load(run_start + run)
    high = tl.load(run_start + run + 1)
    if low < high:
        border = _border(before, tl.load(run_first + run).to(tl.int32))
        if border != 0:
            state = _step(first_child, label, fail, state, border)
        low += _swallows(before, tl.load(run_first + run).to(tl.int32))
        while low < high:
            symbol = tl.load(run_bytes + low).to(tl.int32)
            state = _step(first_child, label, fail, state, symbol)
            low += 1
        before = tl.load(run_last + run).to(tl.int32)
    return state, before


@_jit
def _border(before: tl.tensor, first: tl.tensor) -> tl.tensor:
    """The border symbol between two characters of these classes; 0 for none."""
    opens = tl.where(before != _WORD, _START, 0)
    closes = tl.where(before == _WORD, _END, 0)
    return tl.where(first == _WORD, opens, closes)


@_jit
def _swallows(before: tl.tensor, first: tl.tensor) -> tl.tensor:
    """1 where a space follows a space."""
    return ((first == _SPACE) & (before == _SPACE)).to(tl.int32)


@_jit
def _step(
    first_child: tl.tensor, label: tl.tensor, fail: tl.tensor, state: tl.tensor, symbol: tl.tensor
) -> tl.tensor:
    found = _child(first_child, label, state, symbol)
    while (found == 0) & (state != 0):
        state = tl.load(fail + state)
        found = _child(first_child, label, state, symbol)
    return found


@_jit
def _child(
    first_child: tl.tensor, label: tl.tensor, state: tl.tensor, symbol: tl.tensor
) -> tl.tensor:
    lane = tl.load(first_child + state) + tl.arange(0, _CHILDREN)
    inside = lane < tl.load(first_child + state + 1)
    labels = tl.load(label + lane, mask=inside, other=0).to(tl.int32)
    return tl.max(tl.where(inside & (labels == symbol), lane, 0), axis=0)


@_jit
def _held(pending: tl.tensor) -> tl.tensor:
    return 1 + (pending > 0xFF).to(tl.int32) + (pending > 0xFFFF).to(tl.int32)


@_jit
def _missing(pending: tl.tensor) -> tl.tensor:
    lead = pending & 0xFF
    length = 2 + (lead >= 0xE0).to(tl.int32) + (lead >= 0xF0).to(tl.int32)
    return length - _held(pending)


@_jit
def _goes_on(pending: tl.tensor, head: tl.tensor) -> tl.tensor:
    second = 0x80 | ((head >> 3) & 0x3F)
    low = tl.where(pending == 0xE0, 0xA0, tl.where(pending == 0xF0, 0x90, 0x80))
    high = tl.where(pending == 0xED, 0xA0, tl.where(pending == 0xF4, 0x90, 0xC0))
    return (pending > 0xFF) | ((second >= low) & (second < high))


@_jit
def _is_finishing(pending: tl.tensor, head: tl.tensor) -> tl.tensor:
    return ((head & 3) >= _missing(pending)) & _goes_on(pending, head)


@_jit
def _code_point(pending: tl.tensor, head: tl.tensor) -> tl.tensor:
    lead = pending & 0xFF
    held = _held(pending)
    need = _missing(pending)
    three = tl.where(lead < 0xF0, lead & 0x0F, lead & 0x07)
    point = tl.where(lead < 0xE0, lead & 0x1F, three)
    point = tl.where(held > 1, (point << 6) | ((pending >> 8) & 0x3F), point)
    point = tl.where(held > 2, (point << 6) | ((pending >> 16) & 0x3F), point)
    point = tl.where(need > 0, (point << 6) | ((head >> 3) & 0x3F), point)
    point = tl.where(need > 1, (point << 6) | ((head >> 9) & 0x3F), point)
    return tl.where(need > 2, (point << 6) | ((head >> 15) & 0x3F), point)


@_jit
def _joined(pending: tl.tensor, head: tl.tensor) -> tl.tensor:
    held = _held(pending)
    joined = pending | ((0x80 | ((head >> 3) & 0x3F)) << (8 * held))
    second = (0x80 | ((head >> 9) & 0x3F)) << (8 * held + 8)
    return tl.where((head & 3) > 1, joined | second, joined)


@_kernel(
    "logits_stride",
    "width",
    "policy",
    "bits_stride",
    "size",
    "num_continuing",
    unaligned=("logits", "slot_of", "bits"),
)
def _forbid(
    logits: tl.tensor,
    logits_stride: tl.tensor,
    width: tl.tensor,
    slot_of: tl.tensor,
    slots: tl.tensor,
    rows: tl.tensor,
    report: tl.tensor,
    policy: tl.tensor,
    first_child: tl.tensor,
    label: tl.tensor,
    fail: tl.tensor,
    run_bytes: tl.tensor,
    run_start: tl.tensor,
    run_first: tl.tensor,
    run_last: tl.tensor,
    out_state: tl.tensor,
    phrase_open: tl.tensor,
    phrase_any: tl.tensor,
    entry_state: tl.tensor,
    entry_start: tl.tensor,
    entry_phrase: tl.tensor,
    entry_low: tl.tensor,
    entry_high: tl.tensor,
    bits: tl.tensor,
    bits_stride: tl.tensor,
    bounds: tl.tensor,
    pool: tl.tensor,
    order: tl.tensor,
    continuing: tl.tensor,
    head_of: tl.tensor,
    size: tl.tensor,
    num_continuing: tl.tensor,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    slot = tl.load(slot_of + row).to(tl.int64)
    if slot < 0:
        return
    here = slots + slot * _FIELDS
    if (tl.load(here + _POLICY) != policy) | (tl.load(here + _CLOSED) != 0):
        return
    active = tl.load(here + _SET)
    on = bits + active * bits_stride
    note = rows + row * _ROW_FIELDS
    state = tl.load(note + _ROW_STATE).to(tl.int32)
    before = tl.load(note + _ROW_BEFORE).to(tl.int32)
    pending = tl.load(note + _ROW_PENDING).to(tl.int32)
    line = logits + row * logits_stride
    count = state * 0
    if pending != 0:
        c = part * _LANES
        while c < num_continuing:
            count += _finish(
                line,
                width,
                first_child,
                label,
                fail,
                run_bytes,
                run_start,
                run_first,
                run_last,
                out_state,
                phrase_open,
                phrase_any,
                on,
                continuing,
                head_of,
                size,
                num_continuing,
                state,
                before,
                pending,
                c,
            )
            c += _PARTS * _LANES
        # All other tokens leave the character broken, so the text begins anew behind it.
        state = state * 0
        before = before * 0 + _OTHER
    low = tl.load(bounds + active * 3).to(tl.int32)
    middle = tl.load(bounds + active * 3 + 1).to(tl.int32)
    high = tl.load(bounds + active * 3 + 2).to(tl.int32)
    high = tl.where(before == _WORD, middle, high)
    low += part * _LANES
    pendings = pending + tl.zeros([_LANES], tl.int32)
    while low < high:
        lane = low + tl.arange(0, _LANES)
        token = tl.load(pool + lane, mask=lane < high, other=0)
        chosen = (lane < high) & (token < width)
        head = tl.load(head_of + token, mask=chosen & (pendings != 0), other=0)
        chosen = chosen & ((pendings == 0) | (_is_finishing(pendings, head) == 0))
        tl.store(line + token, float("-inf"), mask=chosen)
        count += tl.sum(chosen.to(tl.int32), axis=0)
        low += _PARTS * _LANES
    begun = _forbid_begun(
        line,
        width,
        fail,
        entry_state,
        entry_start,
        entry_phrase,
        entry_low,
        entry_high,
        on,
        order,
        state,
        part,
    )
    if begun > 0:
        tl.store(note + _ROW_BEGUN, 1)
    if count + begun > 0:
        tl.atomic_add(report + _FORBIDDEN, (count + begun).to(tl.int64))


@_jit
def _forbid_begun(
    line: tl.tensor,
    width: tl.tensor,
    fail: tl.tensor,
    entry_state: tl.tensor,
    entry_start: tl.tensor,
    entry_phrase: tl.tensor,
    entry_low: tl.tensor,
    entry_high: tl.tensor,
    on: tl.tensor,
    order: tl.tensor,
    state: tl.tensor,
    part: tl.tensor,
) -> tl.tensor:
    """Forbid what completes a begun phrase: tiles of entries in turn for the row's programs."""
    count = state * 0
    turn = state * 0
    state = tl.load(entry_state + state)
    while state != 0:
        first = tl.load(entry_start + state)
        last = tl.load(entry_start + state + 1)
        while first < last:
            if turn % _PARTS == part:
                entry = first + tl.arange(0, _ENTRIES)
                phrase = tl.load(entry_phrase + entry, mask=entry < last, other=-1)
                active = _is_on(on, phrase)
                low = tl.load(entry_low + entry, mask=active, other=0)
                high = tl.load(entry_high + entry, mask=active, other=0)
                longest = tl.max(high - low, axis=0)
                offset = longest * 0
                while offset < longest:
                    place = low[:, None] + offset + tl.arange(0, _WIDE)[None, :]
                    inside = place < high[:, None]
                    token = tl.load(order + place, mask=inside, other=0)
                    chosen = inside & (token < width)
                    tl.store(line + token, float("-inf"), mask=chosen)
                    count += tl.sum(tl.sum(chosen.to(tl.int32), axis=1), axis=0)
                    offset += _WIDE
            turn += 1
            first += _ENTRIES
        state = tl.load(entry_state + tl.load(fail + state))
    return count


@_jit
def _is_on(on: tl.tensor, phrase: tl.tensor) -> tl.tensor:
    """Lane by lane whether a phrase is active; -1 is none."""
    byte = tl.load(on + (phrase >> 3), mask=phrase >= 0, other=0).to(tl.int32)
    return (phrase >= 0) & (((byte >> (phrase & 7)) & 1) != 0)


@_jit
def _finish(
    line: tl.tensor,
    width: tl.tensor,
    first_child: tl.tensor,
    label: tl.tensor,
    fail: tl.tensor,
    run_bytes: tl.tensor,
    run_start: tl.tensor,
    run_first: tl.tensor,
    run_last: tl.tensor,
    out_state: tl.tensor,
    phrase_open: tl.tensor,
    phrase_any: tl.tensor,
    on: tl.tensor,
    continuing: tl.tensor,
    head_of: tl.tensor,
    size: tl.tensor,
    num_continuing: tl.tensor,
    state: tl.tensor,
    before: tl.tensor,
    pending: tl.tensor,
    first: tl.tensor,
) -> tl.tensor:
    """Forbid the tokens that finish the pending character and with it an active phrase.

    Each lane reads a border, the character, a border and the rest of its token.
    """
    c = first + tl.arange(0, _LANES)
    before = before + c * 0
    pending = pending + c * 0
    token = tl.load(continuing + c, mask=c < num_continuing, other=0)
    head = tl.load(head_of + token, mask=c < num_continuing, other=0)
    mask = (c < num_continuing) & (token < width) & _is_finishing(pending, head)
    char = tl.where(mask, size + 3 * num_continuing + _code_point(pending, head), 0)
    tail = tl.where(mask, size + 3 * c + _missing(pending) - 1, 0)
    char_low = tl.load(run_start + char)
    char_high = tl.load(run_start + char + 1)
    tail_low = tl.load(run_start + tail)
    tail_high = tl.load(run_start + tail + 1)
    char_first = tl.load(run_first + char).to(tl.int32)
    tail_first = tl.load(run_first + tail).to(tl.int32)
    some = char_low < char_high
    lead = tl.where(some, _border(before, char_first), 0)
    char_low += tl.where(some, _swallows(before, char_first), 0)
    middle = tl.where(some, tl.load(run_last + char).to(tl.int32), before)
    rest = tail_low < tail_high
    between = tl.where(rest, _border(middle, tail_first), 0)
    tail_low += tl.where(rest, _swallows(middle, tail_first), 0)
    char_at = (lead != 0).to(tl.int32)
    between_at = char_at + char_high - char_low
    tail_at = between_at + (between != 0).to(tl.int32)
    total = tl.where(mask, tail_at + tail_high - tail_low, 0)
    states = tl.zeros([_LANES], tl.int32) + state
    done = tl.zeros([_LANES], tl.int32)
    longest = tl.max(total, axis=0)
    i = longest * 0
    while i < longest:
        inside = (i >= char_at) & (i < between_at)
        behind = (i >= tail_at) & (i < total)
        symbol = tl.where(i < char_at, lead, between)
        symbol = tl.where(
            inside,
            tl.load(run_bytes + char_low + i - char_at, mask=inside, other=0).to(tl.int32),
            symbol,
        )
        symbol = tl.where(
            behind,
            tl.load(run_bytes + tail_low + i - tail_at, mask=behind, other=0).to(tl.int32),
            symbol,
        )
        live = (i < total) & (done == 0)
        states = _step_lanes(first_child, label, fail, states, symbol, live)
        # Within a run a border is written; between the two runs it is their classes'.
        within = tl.where(i < between_at, char_low + i - char_at, tail_low + i - tail_at) + 1
        end = tl.where(i < between_at, char_high, tail_high)
        following = tl.load(run_bytes + within, mask=live & (within < end), other=0)
        closes = (i + 1 == between_at) & (between == _END)
        border = (i + 1 == total) | (following.to(tl.int32) == _END) | closes
        found = _occurs(fail, out_state, phrase_open, phrase_any, on, states, border, live)
        done = done | found.to(tl.int32)
        i += 1
    tl.store(line + token, float("-inf"), mask=mask & (done != 0))
    return tl.sum(done, axis=0)


@_jit
def _step_lanes(
    first_child: tl.tensor,
    label: tl.tensor,
    fail: tl.tensor,
    state: tl.tensor,
    symbol: tl.tensor,
    live: tl.tensor,
) -> tl.tensor:
    """`_step`, lane by lane; other lanes keep their state."""
    result = state
    todo = live
    while tl.max(todo.to(tl.int32), axis=0) > 0:
        found = _child_lanes(first_child, label, state, symbol, todo)
        result = tl.where(todo, found, result)
        todo = todo & (found == 0) & (state != 0)
        state = tl.load(fail + state, mask=todo, other=0)
    return result


@_jit
def _child_lanes(
    first_child: tl.tensor, label: tl.tensor, state: tl.tensor, symbol: tl.tensor, todo: tl.tensor
) -> tl.tensor:
    low = tl.load(first_child + state, mask=todo, other=0)
    end = tl.load(first_child + state + 1, mask=todo, other=0)
    high = end
    for _ in range(9):  # at most 256 children
        middle = (low + high) >> 1
        unsure = todo & (low < high)
        less = tl.load(label + middle, mask=unsure, other=0).to(tl.int32) < symbol
        low = tl.where(unsure & less, middle + 1, low)
        high = tl.where(unsure & (less == 0), middle, high)
    there = todo & (low < end)
    same = tl.load(label + low, mask=there, other=0).to(tl.int32) == symbol
    return tl.where(there & same, low, 0)


@_jit
def _occurs(
    fail: tl.tensor,
    out_state: tl.tensor,
    phrase_open: tl.tensor,
    phrase_any: tl.tensor,
    on: tl.tensor,
    state: tl.tensor,
    border: tl.tensor,
    live: tl.tensor,
) -> tl.tensor:
    """Lane by lane whether an active phrase ends in this state."""
    found = live & (state < 0)
    state = tl.load(out_state + state, mask=live, other=0)
    while tl.max(state, axis=0) > 0:
        there = state > 0
        found = found | _is_on(on, tl.load(phrase_any + state, mask=there, other=-1))
        whole = _is_on(on, tl.load(phrase_open + state, mask=there & border, other=-1))
        found = found | whole
        suffix = tl.load(fail + state, mask=there, other=0)
        state = tl.load(out_state + suffix, mask=there & (found == 0), other=0)
    return found


@_kernel("logits_stride", "width", "end_id", unaligned=("logits", "slot_of", "local"))
def _settle(
    logits: tl.tensor,
    logits_stride: tl.tensor,
    width: tl.tensor,
    slot_of: tl.tensor,
    local: tl.tensor,
    total_len: tl.tensor,
    slots: tl.tensor,
    rows: tl.tensor,
    report: tl.tensor,
    end_id: tl.tensor,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slot_of + row).to(tl.int64)
    if slot < 0:
        return
    here = slots + slot * _FIELDS
    if tl.load(here + _POLICY) == _NOT_STEERED:
        return
    line = logits + row * logits_stride
    at = width * 0
    if tl.load(here + _CLOSED) != 0:
        while at < width:
            lane = at + tl.arange(0, _SETTLED)
            value = tl.where(lane == end_id, 0.0, float("-inf"))
            tl.store(line + lane, value, mask=lane < width)
            at += _SETTLED
        return
    tl.atomic_add(report + _STEERED, 1)
    if tl.load(rows + row * _ROW_FIELDS + _ROW_BEGUN) != 0:
        tl.atomic_add(report + _INTERCEPTED, 1)
    left = width * 0
    while (at < width) & (left == 0):
        lane = at + tl.arange(0, _SETTLED)
        value = tl.load(line + lane, mask=lane < width, other=float("-inf"))
        left = tl.max((value != float("-inf")).to(tl.int32), axis=0)
        at += _SETTLED
    if left == 0:
        tl.store(line + end_id, 0.0)
        close_at = tl.load(total_len + slot).to(tl.int64) + tl.load(local + row)
        tl.atomic_min(here + _CLOSE_AT, close_at)
        tl.store(report + _FACTS + slot, tl.load(here + _NONCE) * 8 + _NOTHING_LEFT)
