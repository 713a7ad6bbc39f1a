"""Thresholds over a whole registry: benign scores against every target's rows.

A benign prompt's score is its greatest cosine to any row of one kind, so the stated rate is that of
the registry and not of each target: twenty detectors at 1 % would flag 15 % together.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from detectors.calibration import Threshold, conformal_threshold
from detectors.similarity import best_cosine_per_text
from detectors.tables import RowKind

# Weak evidence forbids only what the matched items answer, so it may fire this much oftener.
WEAK_FACTOR = 2.0
# Weak and strong thresholds never lie below these: a small registry would otherwise spend its whole
# false-positive rate on questions of the same form about other people. Measured on TOFU with 1, 2,
# 5 and 20 authors registered: 0.72 loses no paraphrase (the farthest is at 0.73).
FLOORS = {RowKind.PROMPT: (0.70, 0.72), RowKind.DOCUMENT: (0.50, 0.55)}
# A registered prompt itself must always fire, whatever stands among the benign prompts.
CEILING = 0.97

Embeddings = npt.NDArray[np.float32]
Thresholds = dict[RowKind, tuple[Threshold, Threshold]]


class RegistryCalibration:
    """Benign scores per kind over the whole registry, and the thresholds they give."""

    def __init__(
        self,
        rows: Embeddings,
        kinds: npt.NDArray[np.int8],
        benign: Embeddings,
        owners: npt.NDArray[np.int32],
    ) -> None:
        """Score benign windows.

        Args:
            rows: all registered rows, [rows, d].
            kinds: their `RowKind`, [rows].
            benign: windows of benign texts, [m, d].
            owners: the text that each window was cut from, [m].
        """
        self.rows = rows
        self.kinds = kinds
        self.present = [kind for kind in RowKind if np.any(kinds == kind)]
        self.scores = {
            kind: best_cosine_per_text(benign, owners, rows[kinds == kind]) for kind in self.present
        }
        self._cache: dict[float, Thresholds] = {}

    def thresholds(self, alpha: float) -> Thresholds:
        """Weak and strong threshold of each kind present."""
        if alpha not in self._cache:
            share = alpha / max(1, len(self.present))
            self._cache[alpha] = {kind: self._pair(kind, share) for kind in self.present}
        return self._cache[alpha]

    def _pair(self, kind: RowKind, alpha: float) -> tuple[Threshold, Threshold]:
        scores = self.scores[kind]
        weak_floor, strong_floor = FLOORS[kind]
        strong = conformal_threshold(scores, alpha, floor=strong_floor, ceiling=CEILING)
        loose = min(WEAK_FACTOR * alpha, 0.5)
        weak = conformal_threshold(scores, loose, floor=weak_floor, ceiling=strong.value)
        return weak, strong
