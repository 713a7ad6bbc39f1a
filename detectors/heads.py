"""A trained head per target, in closed form: one feature beside the cosine.

The head w of a target solves min sum over its prompts (w.x - 1)^2 + sum over benign prompts (w.b)^2
+ ridge |w|^2 (least squares, as in analytic class-incremental learning: Zhuang et al., 2022). Its
data are the target's own prompts and the benign ones, whose Gram matrix all targets share; so
adding or removing a target leaves every other head as it is, and each costs one small solve.

Alone a head finds fewer paraphrases than the nearest prompt does. Added to the cosine it tells a
target's questions from retain examples of the same form, which the cosine cannot.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from detectors.similarity import Embeddings, block_rows

RIDGE = 1.0
# A prompt's score is its cosine to the nearest row plus this share of the target's head.
HEAD_WEIGHT = 0.5
# Below every possible score.
NO_SCORE = -9.0

Vector = npt.NDArray[np.float32]


class BenignGram:
    """What all heads share: the benign prompts' Gram matrix, inverted once."""

    def __init__(self, benign: Embeddings) -> None:
        """Take benign embeddings [m, d]; there may be none."""
        rows = benign.astype(np.float64)
        gram = rows.T @ rows + RIDGE * np.eye(rows.shape[1])
        self._gram = gram
        self._inverse = np.linalg.inv(gram)
        # What a head would say of a benign prompt had it not been trained on it: its residual is
        # divided by 1 - leverage. Leverage without the target's prompts is greater: cautious.
        leverage = np.einsum("ij,jk,ik->i", rows, self._inverse, rows)
        self.unseen: Vector = (1.0 / np.maximum(1.0 - leverage, 1e-3)).astype(np.float32)

    def head(self, prompts: Embeddings) -> Vector:
        """The head [d] of a target with these prompts [n, d]; zeros where it has none."""
        rows = prompts.astype(np.float64)
        if len(rows) > rows.shape[1]:
            solved = np.linalg.solve(self._gram + rows.T @ rows, rows.sum(axis=0))
        else:
            # The same by the matrix inversion lemma, with a matrix of the few prompts.
            spread = self._inverse @ rows.T
            solved = spread @ np.linalg.solve(np.eye(len(rows)) + rows @ spread, np.ones(len(rows)))
        head: Vector = solved.astype(np.float32)
        return head

    def unseen_own(self, prompts: Embeddings) -> Vector:
        """What a head would say of each of its prompts [n, d] had it not been trained on it; [n].

        By the leverages of its fit (Allen's PRESS): (w.x - h) / (1 - h).
        """
        rows = prompts.astype(np.float64)
        kernel = rows @ self._inverse @ rows.T
        hat = np.linalg.solve(np.eye(len(rows)) + kernel, kernel).T
        own = np.diag(hat)
        found: Vector = ((hat.sum(axis=1) - own) / np.maximum(1 - own, 1e-3)).astype(np.float32)
        return found


def scores(
    windows: Embeddings,
    rows: Embeddings,
    heads: Embeddings,
    floor: float,
    unseen: Vector | None = None,
) -> Vector:
    """For each row its greatest score over the windows that are near enough; [n].

    `windows` [m, d]; `rows` [n, d] with the head [n, d] of each one's target; `floor` is the least
    cosine that counts, without which the score is `NO_SCORE`. `unseen` [m] corrects the heads for
    windows that they were trained on (`BenignGram.unseen`).
    """
    best = np.full(len(rows), NO_SCORE, np.float32)
    if not len(windows):
        return best
    factor = np.ones(len(windows), np.float32) if unseen is None else unseen
    size = block_rows(len(windows))
    for first in range(0, len(rows), size):
        block = slice(first, first + size)
        cosines = windows @ rows[block].T
        found = cosines + HEAD_WEIGHT * factor[:, None] * (windows @ heads[block].T)
        best[block] = np.where(cosines >= floor, found, NO_SCORE).max(axis=0)
    return best
