"""Similarity of a conversation to registered rows: the greatest cosine over its windows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# Bounds the block of cosines held at once: 64 windows against 1 M rows are 256 MB.
_WINDOWS_AT_ONCE = 64


def best_cosines(
    windows: npt.NDArray[np.float32], rows: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """For each of `rows` [n, d] its greatest cosine to `windows` [m, d]; [n], -1 where m is 0.

    Both hold unit vectors.
    """
    best = np.full(len(rows), -1.0, dtype=np.float32)
    for start in range(0, len(windows), _WINDOWS_AT_ONCE):
        block = windows[start : start + _WINDOWS_AT_ONCE] @ rows.T
        np.maximum(best, block.max(axis=0), out=best)
    return best


def best_cosine_per_text(
    windows: npt.NDArray[np.float32], owners: npt.NDArray[np.int32], rows: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """For each text its greatest cosine to any of `rows` [n, d]; [max(owners) + 1].

    `owners` [m] tells which text each of `windows` [m, d] was cut from; -1 where it has none.
    """
    texts = int(owners.max()) + 1 if len(owners) else 0
    best = np.full(texts, -1.0, dtype=np.float32)
    if not len(rows):
        return best
    for start in range(0, len(windows), _WINDOWS_AT_ONCE):
        stop = start + _WINDOWS_AT_ONCE
        block = (windows[start:stop] @ rows.T).max(axis=1)
        np.maximum.at(best, owners[start:stop], block)
    return best
