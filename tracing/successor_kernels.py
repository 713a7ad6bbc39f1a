"""The veto's inner loops, compiled by numba without the GIL.

Arrays are those of `tracing.successors.SuccessorTable`. The hash of a run is a sum of one scrambled
number per token and place, finished with the run's length: runs of several lengths that end at the
same token take one pass, and a GPU adds up its lanes in any order.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tracing.sorting import Array, jit

# Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014 (SplitMix64).
TOKEN_FACTOR = 0x9E3779B97F4A7C15
PLACE_FACTOR = 0xD6E8FEB86659FD93
SCRAMBLE = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
LAST_SHIFT = 31

_TOKEN = np.uint64(TOKEN_FACTOR)
_PLACE = np.uint64(PLACE_FACTOR)
_FIRST_SHIFT, _FIRST = np.uint64(SCRAMBLE[0][0]), np.uint64(SCRAMBLE[0][1])
_SECOND_SHIFT, _SECOND = np.uint64(SCRAMBLE[1][0]), np.uint64(SCRAMBLE[1][1])
_LAST_SHIFT = np.uint64(LAST_SHIFT)


@jit
def _scrambled(number: Any) -> Any:
    number = (number ^ (number >> _FIRST_SHIFT)) * _FIRST
    number = (number ^ (number >> _SECOND_SHIFT)) * _SECOND
    return number ^ (number >> _LAST_SHIFT)


@jit
def _added(token: int, place: int, salt: Any) -> Any:
    """What a token adds to the hash of a run, `place` tokens before its last."""
    return _scrambled(salt + np.uint64(token) * _TOKEN + np.uint64(place) * _PLACE)


@jit
def _finished(total: Any, length: int) -> Any:
    return _scrambled(total + np.uint64(length) * _PLACE)


@jit
def hash_runs(tokens: Array, length: int, salt: Any) -> Any:
    """Keyed hash of every run of `length` tokens that another token follows; [n - length]."""
    hashes = np.empty(tokens.shape[0] - length, np.uint64)
    for i in range(hashes.shape[0]):
        total = np.uint64(0)
        for place in range(length):
            total += _added(tokens[i + length - 1 - place], place, salt)
        hashes[i] = _finished(total, length)
    return hashes


@jit
def _find(keys: Array, buckets: Array, shift: Any, key: Any) -> Any:
    """The row of a key, or -1. Hashes spread evenly, so a bucket has some four keys."""
    bucket = np.int64(key >> shift)
    for at in range(np.int64(buckets[bucket]), np.int64(buckets[bucket + 1])):
        if keys[at] == key:
            return at
    return -1


@jit
def _dense_row(dense_keys: Array, row: int) -> Any:
    low, high = 0, dense_keys.shape[0]
    while low < high:
        middle = (low + high) >> 1
        if dense_keys[middle] < row:
            low = middle + 1
        else:
            high = middle
    return low


@jit
def _put(logits: Array, out: Array, row: int, token: int, width: int, count: int) -> Any:
    if token >= width:
        return count
    if logits.shape[0]:
        logits[row, token] = -np.inf
    elif count < out.shape[0]:
        out[count] = row * width + token
    return count + 1


@jit
def _put_all(
    prefix_start: Array,
    prefix: Array,
    logits: Array,
    out: Array,
    row: int,
    token: int,
    width: int,
    count: int,
) -> Any:
    """Forbid a token, and what the same bytes could begin with instead."""
    count = _put(logits, out, row, token, width, count)
    if token + 1 < prefix_start.shape[0]:
        for k in range(prefix_start[token], prefix_start[token + 1]):
            count = _put(logits, out, row, prefix[k], width, count)
    return count


@jit
def veto_rows(
    keys: Array,
    starts: Array,
    tokens: Array,
    buckets: Array,
    dense_keys: Array,
    dense: Array,
    lengths: Array,
    salt: Any,
    prefix_start: Array,
    prefix: Array,
    windows: Array,
    filled: Array,
    slots: Array,
    rows: Array,
    width: int,
    logits: Array,
    out: Array,
) -> Any:
    """Forbid, per row, what follows any of its last runs in the registered documents.

    With a token t all of prefix[prefix_start[t]:prefix_start[t + 1]] are forbidden.
    `windows` [capacity, W], newest token at the right, `filled` [capacity] how many are there;
    `slots` [B] which of them count, `rows` [B] their rows of `width` tokens. Writes minus infinity
    into `logits` [rows, width] float32; where that has no rows, row * width + token into `out` as
    far as it goes. Gives how many there are, and how many rows have any.
    """
    bits = 0
    while (1 << bits) + 1 < buckets.shape[0]:
        bits += 1
    shift = np.uint64(64 - bits)
    last = windows.shape[1] - 1
    longest = lengths[0] if lengths.shape[0] else 0
    found = np.full((slots.shape[0], lengths.shape[0]), -1, np.int64)
    # All look-ups before any write: the memory accesses of different rows overlap.
    for i in range(slots.shape[0]):
        slot = slots[i]
        total, next_length = np.uint64(0), lengths.shape[0] - 1
        for place in range(min(filled[slot], longest)):
            total += _added(windows[slot, last - place], place, salt)
            if place + 1 == lengths[next_length]:
                key = _finished(total, place + 1)
                found[i, next_length] = _find(keys, buckets, shift, key)
                next_length -= 1
    count, vetoed = 0, 0
    for i in range(slots.shape[0]):
        before, row = count, rows[i]
        for k in range(lengths.shape[0]):
            at = found[i, k]
            if at < 0:
                continue
            for s in range(np.int64(starts[at]), np.int64(starts[at + 1])):
                count = _put_all(
                    prefix_start, prefix, logits, out, row, np.int64(tokens[s]), width, count
                )
            place = _dense_row(dense_keys, at)
            if place < dense_keys.shape[0] and dense_keys[place] == at:
                mask = dense[place]
                for token in range(8 * dense.shape[1]):
                    if (mask[token >> 3] >> (token & 7)) & 1:
                        count = _put_all(
                            prefix_start, prefix, logits, out, row, token, width, count
                        )
        vetoed += count > before
    return count, vetoed
