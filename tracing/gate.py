"""A gate before the index: has this run of symbols been seen at all?

A Bloom filter in blocks of one cache line. It says no for nearly every ordinary place of a text,
at the price of one memory access, so that only places which do match pay for a search. It never
says no wrongly. Runs are read backwards, newest symbol first, as the index is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tracing.sorting import Array, jit

BITS_PER_RUN = 12
_PROBES = 6
_WORDS = 8


def build_gate(text: Array, depth: int) -> npt.NDArray[np.uint64]:
    """The gate of a segment's text, [8 * blocks] uint64: all its runs of `depth` symbols.

    Also lets through every whole document of fewer symbols, under a hash of its own.
    """
    blocks = max(1, -(-text.shape[0] * BITS_PER_RUN // 512))
    gate = np.zeros(blocks * _WORDS, np.uint64)
    _fill(text, depth, gate)
    return gate


@jit
def run_hash(symbols: Array, start: int, step: int, length: int) -> Any:
    """64-bit hash of `length` symbols from `start`, going by `step` (+1 in a reversed text)."""
    mixed = np.uint64(length)
    for k in range(length):
        symbol = np.uint64(symbols[start + step * k])
        mixed = (mixed + symbol + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    return mixed ^ (mixed >> np.uint64(32))


@jit
def passes(gate: Array, mixed: Any) -> Any:
    """Whether a run of this hash may be in the text."""
    at = _line(gate, mixed)
    bits = mixed * np.uint64(0x94D049BB133111EB)
    for _ in range(_PROBES):
        bit = bits >> np.uint64(55)
        if not (gate[at + np.int64(bit >> np.uint64(6))] >> (bit & np.uint64(63))) & np.uint64(1):
            return False
        bits <<= np.uint64(9)
    return True


@jit
def _line(gate: Array, mixed: Any) -> Any:
    blocks = np.uint64(gate.shape[0] >> 3)
    return np.int64(((mixed >> np.uint64(32)) * blocks) >> np.uint64(32)) << 3


@jit
def _mark(gate: Array, mixed: Any) -> None:
    at = _line(gate, mixed)
    bits = mixed * np.uint64(0x94D049BB133111EB)
    for _ in range(_PROBES):
        bit = bits >> np.uint64(55)
        gate[at + np.int64(bit >> np.uint64(6))] |= np.uint64(1) << (bit & np.uint64(63))
        bits <<= np.uint64(9)


@jit
def _fill(text: Array, depth: int, gate: Array) -> None:
    start = 1
    for i in range(1, text.shape[0]):
        if text[i]:
            continue
        length = i - start
        if 0 < length < depth:
            _mark(gate, run_hash(text, start, 1, length))
        for k in range(start, i - depth + 1):
            _mark(gate, run_hash(text, k, 1, depth))
        start = i + 1
