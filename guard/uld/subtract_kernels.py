"""The subtraction on the host, in one pass over the logits instead of one for each operation.

Compiled by numba like `guard.kernels`.
"""

from __future__ import annotations

import numpy as np

from guard.kernels import Array, jit


@jit
def take_off(
    logits: Array, rows: Array, thresholds: Array, said: Array, places: Array, weights: Array
) -> None:
    """Subtract from `rows` of the logits the `places` of `said`, each times its weight, in place.

    What is below a row's threshold becomes minus infinity. logits, said: [rows, vocabulary]
    float32; thresholds: [rows] float32 as `rows`; weights: [rows of said] float32.
    """
    for i in range(rows.shape[0]):
        row, place, threshold = rows[i], places[i], thresholds[i]
        weight = weights[place]
        for token in range(logits.shape[1]):
            value = logits[row, token]
            taken = value - weight * said[place, token]
            logits[row, token] = np.float32(-np.inf) if value < threshold else taken
