"""Thresholds over a whole registry: benign scores against every target's rows.

A benign prompt's score is its greatest one by any row of one kind, so the stated rate is that of
the registry and not of each target: twenty detectors at 1 % would flag 15 % together. Scores of
document rows and of weak evidence are cosines; strong evidence by a registered prompt needs a
cosine of its floor at least, and there its score is that of `detectors.heads`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from detectors.calibration import Threshold, conformal_threshold
from detectors.heads import NO_SCORE, BenignGram, Vector, scores
from detectors.similarity import Embeddings, best_cosine_per_text
from detectors.tables import RowKind

# Weak evidence forbids only what the matched items answer, so it may fire this much oftener.
WEAK_FACTOR = 2.0
# Weak and strong thresholds never lie below these: a small registry would otherwise spend its whole
# false-positive rate on questions of the same form about other people. Measured on TOFU with 1, 2,
# 5 and 20 authors registered: 0.72 loses no paraphrase (the farthest is at 0.73).
FLOORS = {RowKind.PROMPT: (0.70, 0.72), RowKind.DOCUMENT: (0.48, 0.50)}
# A question that describes its subject is faint evidence from a smaller cosine on, and may be so
# much oftener. On RWKU (development half) 34 of 116 missed attacks, for 3 of 2,733 neighbours.
DESCRIBED_FACTOR = 6.0
DESCRIBED_FLOOR = 0.30
# A registered prompt itself must always fire, whatever stands among the benign prompts.
CEILING = 0.97
# The least cosine at which a registered prompt may be strong evidence.
PROMPT_FLOOR = FLOORS[RowKind.PROMPT][1]

Thresholds = dict[RowKind, tuple[Threshold, Threshold]]


@dataclass(frozen=True)
class Rows:
    """What is registered of all targets: embeddings [rows, d], and per row its target and kind."""

    embeddings: Embeddings
    target: npt.NDArray[np.int32]
    kind: npt.NDArray[np.int8]
    num_targets: int

    def of(self, target: int) -> npt.NDArray[np.int64]:
        """Places [k] of a target's rows, ascending."""
        order, starts = self._by_target
        return order[starts[target] : starts[target + 1]]

    @cached_property
    def _by_target(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        # Sorted once: looking all rows through for every target would be quadratic.
        order = np.argsort(self.target, kind="stable")
        starts = np.searchsorted(self.target[order], np.arange(self.num_targets + 1))
        return order, starts


class RegistryCalibration:
    """Heads of all targets, benign scores over the whole registry, and the thresholds they give."""

    def __init__(
        self,
        rows: Rows,
        benign: Embeddings,
        owners: npt.NDArray[np.int32],
        described: npt.NDArray[np.bool_],
    ) -> None:
        """Train the heads and score benign windows.

        Args:
            rows: all registered rows.
            benign: windows of benign texts, [m, d].
            owners: the text that each window was cut from, ascending, [m].
            described: which texts describe somebody (`detectors.descriptions`), [texts].
        """
        self.rows = rows
        self.gram = BenignGram(benign)
        self.present = [kind for kind in RowKind if np.any(rows.kind == kind)]
        self.scores = {
            kind: best_cosine_per_text(benign, owners, rows.embeddings[rows.kind == kind])
            for kind in self.present
        }
        self.heads = self._heads()
        self._head_scores = self._score_benign(benign, owners)
        self._described = described
        self._cache: dict[float, Thresholds] = {}

    def thresholds(self, alpha: float) -> Thresholds:
        """Weak and strong threshold of each kind present."""
        if alpha not in self._cache:
            share = alpha / max(1, len(self.present))
            self._cache[alpha] = {kind: self._pair(kind, share) for kind in self.present}
        return self._cache[alpha]

    def described(self, alpha: float) -> Threshold:
        """From which cosine to a registered prompt on a described subject is faint evidence."""
        cosines = self.scores.get(RowKind.PROMPT, np.zeros(0, np.float32))
        cosines = np.where(self._described[: len(cosines)], cosines, np.float32(-1))
        rate = min(DESCRIBED_FACTOR * alpha, 0.5)
        return conformal_threshold(cosines, rate, floor=DESCRIBED_FLOOR, ceiling=CEILING)

    def prompts_of(self, target: int) -> Embeddings:
        """Rows [k, d] of a target's prompts."""
        own = self.rows.of(target)
        found: Embeddings = self.rows.embeddings[own[self.rows.kind[own] == RowKind.PROMPT]]
        return found

    def _heads(self) -> Embeddings:
        heads = np.zeros((self.rows.num_targets, self.rows.embeddings.shape[1]), np.float32)
        for target in range(len(heads)):
            heads[target] = self.gram.head(self.prompts_of(target))
        return heads

    def _score_benign(self, benign: Embeddings, owners: npt.NDArray[np.int32]) -> Vector:
        """Each benign text's greatest score by a prompt row, by heads that have not seen it."""
        if RowKind.PROMPT not in self.present:
            return np.zeros(0, np.float32)
        cosines = self.scores[RowKind.PROMPT]
        found = np.full(len(cosines), NO_SCORE, np.float32)
        prompts = np.flatnonzero(self.rows.kind == RowKind.PROMPT)
        rows, targets = self.rows.embeddings[prompts], self.rows.target[prompts]
        for text in np.flatnonzero(cosines >= PROMPT_FLOOR):
            own = owners == text
            near = np.flatnonzero((benign[own] @ rows.T).max(axis=0) >= PROMPT_FLOOR)
            heads = self.heads[targets[near]]
            found[text] = scores(
                benign[own], rows[near], heads, PROMPT_FLOOR, self.gram.unseen[own]
            ).max()
        return found

    def _pair(self, kind: RowKind, alpha: float) -> tuple[Threshold, Threshold]:
        cosines = self.scores[kind]
        weak_floor, strong_floor = FLOORS[kind]
        loose = min(WEAK_FACTOR * alpha, 0.5)
        if kind is RowKind.PROMPT:
            strong = conformal_threshold(self._head_scores, alpha, floor=0.0, ceiling=math.inf)
            highest = CEILING
        else:
            strong = conformal_threshold(cosines, alpha, floor=strong_floor, ceiling=CEILING)
            highest = strong.value
        weak = conformal_threshold(cosines, loose, floor=weak_floor, ceiling=highest)
        return weak, strong
