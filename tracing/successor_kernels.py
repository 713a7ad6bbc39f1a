"""The veto's inner loops, compiled by numba without the GIL.

Arrays are those of `tracing.successors.SuccessorTable`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tracing.sorting import Array, jit


@jit
def _run_hash(tokens: Array, start: int, length: int, salt: Any) -> Any:
    mixed = salt ^ (np.uint64(length) * np.uint64(0x9E3779B97F4A7C15))
    for k in range(start, start + length):
        mixed = (mixed ^ (np.uint64(tokens[k]) + np.uint64(1))) * np.uint64(0xD6E8FEB86659FD93)
        mixed ^= mixed >> np.uint64(32)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    return mixed ^ (mixed >> np.uint64(31))


@jit
def hash_runs(tokens: Array, length: int, salt: Any) -> Any:
    """Keyed hash of every run of `length` tokens that another token follows; [n - length]."""
    hashes = np.empty(tokens.shape[0] - length, np.uint64)
    for i in range(hashes.shape[0]):
        hashes[i] = _run_hash(tokens, i, length, salt)
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
    if logits.shape[0]:
        if token < logits.shape[1]:
            logits[row, token] = -np.inf
    elif count < out.shape[0]:
        out[count] = row * width + token
    return count + 1


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
    width: int,
    rows: Array,
    sizes: Array,
    logits: Array,
    out: Array,
) -> Any:
    """Forbid, per row, what follows any of its last runs in the registered documents.

    `rows` [B, W], newest token at the right, `sizes` [B] filled. Writes minus infinity into
    `logits` [B, V] float32; where that has no rows, row * width + token into `out` as far as it
    goes. Gives how many there are, and how many rows have any.
    """
    bits = 0
    while (1 << bits) + 1 < buckets.shape[0]:
        bits += 1
    shift = np.uint64(64 - bits)
    last = rows.shape[1]
    at = np.full((rows.shape[0], lengths.shape[0]), -1, np.int64)
    # All look-ups before any write: the memory accesses of different rows overlap.
    for i in range(rows.shape[0]):
        for k in range(lengths.shape[0]):
            if sizes[i] >= lengths[k]:
                key = _run_hash(rows[i], last - lengths[k], lengths[k], salt)
                at[i, k] = _find(keys, buckets, shift, key)
    count, vetoed = 0, 0
    for i in range(rows.shape[0]):
        before = count
        for k in range(lengths.shape[0]):
            found = at[i, k]
            if found < 0:
                continue
            for s in range(np.int64(starts[found]), np.int64(starts[found + 1])):
                count = _put(logits, out, i, np.int64(tokens[s]), width, count)
            if starts[found] == starts[found + 1]:
                mask = dense[_dense_row(dense_keys, found)]
                for token in range(width):
                    if (mask[token >> 3] >> (token & 7)) & 1:
                        count = _put(logits, out, i, token, width, count)
        vetoed += count > before
    return count, vetoed
