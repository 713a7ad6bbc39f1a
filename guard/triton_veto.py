"""The veto's step on a GPU, in Triton: `guard.device_veto`, a program per row and length of run."""

from __future__ import annotations

import triton.language as tl

from guard.device_policy import DevicePolicy, DeviceVeto
from guard.device_slots import Step
from guard.device_vocabulary import DeviceVocabulary
from guard.triton_constants import (
    CLOSED,
    FIELDS,
    LANES,
    POLICY,
    TRANSPARENT,
    VETOED,
    jit,
)
from guard.triton_launch import kernel
from tracing.successor_kernels import LAST_SHIFT as _LAST_SHIFT
from tracing.successor_kernels import PLACE_FACTOR as _PLACE_FACTOR
from tracing.successor_kernels import SCRAMBLE as _SCRAMBLE
from tracing.successor_kernels import TOKEN_FACTOR as _TOKEN_FACTOR

_MASKED = tl.constexpr(1024)  # tokens of a bitmask at once
_BUCKET = tl.constexpr(32)  # keys of a bucket at once
_TOKEN = tl.constexpr(_TOKEN_FACTOR)
_PLACE = tl.constexpr(_PLACE_FACTOR)
_FIRST_SHIFT, _FIRST = (tl.constexpr(number) for number in _SCRAMBLE[0])
_SECOND_SHIFT, _SECOND = (tl.constexpr(number) for number in _SCRAMBLE[1])
_LAST = tl.constexpr(_LAST_SHIFT)


def veto(step: Step, policy: DevicePolicy, table: DeviceVeto, vocabulary: DeviceVocabulary) -> None:
    """See `guard.device_veto.veto`."""
    _veto.launch(
        step.slot_of.shape[0],
        table.lengths.shape[0],
        step.logits,
        step.logits.stride(0),
        step.logits.shape[1],
        step.slot_of,
        step.local,
        step.inputs,
        step.tokens,
        step.tokens.stride(0),
        step.prompt_len,
        step.total_len,
        step.slots,
        step.report,
        policy.id,
        vocabulary.pending,
        vocabulary.size,
        table.keys,
        table.starts,
        table.successors,
        table.buckets,
        table.dense_keys,
        table.dense_keys.shape[0],
        table.dense,
        table.dense.shape[1],
        table.lengths,
        table.salt,
        table.shift,
        table.prefix_start,
        table.prefix,
    )


@kernel(
    "logits_stride",
    "width",
    "tokens_stride",
    "policy",
    "size",
    "num_dense",
    "dense_stride",
    "shift",
    warps=1,
)
def _veto(
    logits: tl.tensor,
    logits_stride: tl.tensor,
    width: tl.tensor,
    slot_of: tl.tensor,
    local: tl.tensor,
    inputs: tl.tensor,
    tokens: tl.tensor,
    tokens_stride: tl.tensor,
    prompt_len: tl.tensor,
    total_len: tl.tensor,
    slots: tl.tensor,
    report: tl.tensor,
    policy: tl.tensor,
    pending_of: tl.tensor,
    size: tl.tensor,
    keys: tl.tensor,
    starts: tl.tensor,
    successors: tl.tensor,
    buckets: tl.tensor,
    dense_keys: tl.tensor,
    num_dense: tl.tensor,
    dense: tl.tensor,
    dense_stride: tl.tensor,
    lengths: tl.tensor,
    salt: tl.tensor,
    shift: tl.tensor,
    prefix_start: tl.tensor,
    prefix: tl.tensor,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slot_of + row).to(tl.int64)
    if slot < 0:
        return
    here = slots + slot * FIELDS
    if (tl.load(here + POLICY) != policy) | (tl.load(here + CLOSED) != 0):
        return
    length = tl.load(lengths + tl.program_id(1)).to(tl.int32)
    total = tl.load(total_len + slot).to(tl.int32)
    place = tl.load(local + row).to(tl.int32)
    found, mixed = _hash(
        tokens + slot * tokens_stride,
        inputs + row - place + 1 - total,
        total,
        total + place,
        tl.load(prompt_len + slot).to(tl.int32),
        length,
        pending_of,
        size,
        tl.load(salt).to(tl.uint64, bitcast=True),
    )
    if found < length:
        return
    key = _scrambled(mixed + length.to(tl.uint64) * _PLACE)
    at = _find(
        keys, buckets, (key >> shift.to(tl.uint64)).to(tl.int64), key.to(tl.int64, bitcast=True)
    )
    if at < 0:
        return
    line = logits + row * logits_stride
    low = tl.load(starts + at).to(tl.int32)
    high = tl.load(starts + at + 1).to(tl.int32)
    count = low * 0
    while low < high:
        lane = low + tl.arange(0, LANES)
        token = tl.load(successors + lane, mask=lane < high, other=0)
        count += _forbid(line, width, token, lane < high, prefix_start, prefix, size)
        low += LANES
    count += _forbid_dense(
        line,
        width,
        dense_keys,
        num_dense,
        dense,
        dense_stride,
        at,
        prefix_start,
        prefix,
        size,
    )
    if count > 0:
        tl.atomic_add(report + VETOED, count.to(tl.int64))


@jit
def _hash(
    history: tl.tensor,
    drafts: tl.tensor,
    total: tl.tensor,
    at: tl.tensor,
    prompt: tl.tensor,
    length: tl.tensor,
    pending_of: tl.tensor,
    size: tl.tensor,
    salt: tl.tensor,
) -> tl.tensor:
    """How many of a run's last tokens there are, at most `length` counted in, and their sum."""
    found = total * 0
    stop = total * 0
    mixed = salt * 0
    while (at > stop) & (found < length):
        place = tl.maximum(at - LANES, 0) + tl.arange(0, LANES)
        inside = place < at
        said = inside & (place < total)
        token = tl.load(history + place, mask=said, other=-1).to(tl.int32)
        draft = tl.load(drafts + place, mask=inside & (place >= total), other=-1).to(tl.int32)
        token = tl.where(place < total, token, draft)
        known = inside & (token >= 0) & (token < size)
        known = known & (tl.load(pending_of + token, mask=known, other=TRANSPARENT) != TRANSPARENT)
        barrier = inside & (known == 0) & (place < prompt)
        stop = tl.max(tl.where(barrier, place + 1, 0), axis=0)
        counted = (known & (place >= stop)).to(tl.int32)
        here = tl.sum(counted, axis=0)
        back = found + here - tl.cumsum(counted, axis=0)  # tokens of the run behind this one
        scrambled = _scrambled(
            salt + token.to(tl.uint64) * _TOKEN + back.to(tl.uint64) * _PLACE
        ).to(tl.int64, bitcast=True)
        summed = tl.sum(tl.where((counted != 0) & (back < length), scrambled, 0), axis=0)
        mixed += summed.to(tl.uint64, bitcast=True)
        found += here
        at = tl.maximum(at - LANES, 0)
    return found, mixed


@jit
def _scrambled(number: tl.tensor) -> tl.tensor:
    number = (number ^ (number >> _FIRST_SHIFT)) * _FIRST
    number = (number ^ (number >> _SECOND_SHIFT)) * _SECOND
    return number ^ (number >> _LAST)


@jit
def _find(keys: tl.tensor, buckets: tl.tensor, bucket: tl.tensor, key: tl.tensor) -> tl.tensor:
    """The row of a key, or -1."""
    low = tl.load(buckets + bucket).to(tl.int32)
    high = tl.load(buckets + bucket + 1).to(tl.int32)
    at = low * 0 - 1
    while low < high:
        lane = low + tl.arange(0, _BUCKET)
        same = (lane < high) & (tl.load(keys + lane, mask=lane < high, other=0) == key)
        at = tl.maximum(at, tl.max(tl.where(same, lane, -1), axis=0))
        low += _BUCKET
    return at


@jit
def _forbid(
    line: tl.tensor,
    width: tl.tensor,
    token: tl.tensor,
    there: tl.tensor,
    prefix_start: tl.tensor,
    prefix: tl.tensor,
    size: tl.tensor,
) -> tl.tensor:
    """Forbid lanes' tokens, and what the same bytes could begin with instead."""
    chosen = there & (token < width)
    tl.store(line + token, float("-inf"), mask=chosen)
    count = tl.sum(chosen.to(tl.int32), axis=0)
    known = there & (token < size)
    low = tl.load(prefix_start + token, mask=known, other=0)
    number = tl.load(prefix_start + token + 1, mask=known, other=0) - low
    most = tl.max(number, axis=0)
    i = most * 0
    while i < most:
        other = tl.load(prefix + low + i, mask=i < number, other=0)
        chosen = (i < number) & (other < width)
        tl.store(line + other, float("-inf"), mask=chosen)
        count += tl.sum(chosen.to(tl.int32), axis=0)
        i += 1
    return count


@jit
def _forbid_dense(
    line: tl.tensor,
    width: tl.tensor,
    dense_keys: tl.tensor,
    num_dense: tl.tensor,
    dense: tl.tensor,
    dense_stride: tl.tensor,
    at: tl.tensor,
    prefix_start: tl.tensor,
    prefix: tl.tensor,
    size: tl.tensor,
) -> tl.tensor:
    """Forbid the successors that a run has in its bitmask, if it has one."""
    count = at * 0
    low = at * 0
    high = at * 0 + num_dense
    while low < high:
        middle = (low + high) >> 1
        less = tl.load(dense_keys + middle) < at
        low = tl.where(less, middle + 1, low)
        high = tl.where(less, high, middle)
    if tl.load(dense_keys + low, mask=low < num_dense, other=-1) == at:
        mask = dense + low.to(tl.int64) * dense_stride
        first = at * 0
        while first < 8 * dense_stride:
            token = first + tl.arange(0, _MASKED)
            inside = token < 8 * dense_stride
            byte = tl.load(mask + (token >> 3), mask=inside, other=0).to(tl.int32)
            chosen = inside & (((byte >> (token & 7)) & 1) != 0)
            count += _forbid(line, width, token, chosen, prefix_start, prefix, size)
            first += _MASKED
    return count
