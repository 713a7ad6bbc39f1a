"""Is a conversation about a forget target? Aliases and similarity, graded (GUARD, step 1).

Retrieval, not a trained head: on TOFU the greatest cosine to the registered prompts finds
paraphrases that logistic and MLP heads on the same embeddings miss.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from detectors.alias import AliasMatcher
from detectors.builder import build_tables
from detectors.detection import Detection, Layer, Strength
from detectors.errors import TablesError
from detectors.similarity import best_cosines
from detectors.tables import ClassifierTables, RowKind
from detectors.windows import prompt_windows

__all__ = ["MAX_ITEMS", "ClassifierTables", "PromptClassifier", "build_tables", "prompt_windows"]

MAX_ITEMS = 8
# Where the target is named, its nearest items count from this cosine on.
_NAMED_FLOOR = 0.25


class PromptClassifier:
    """Judges conversations by one set of tables. Thread-safe: nothing changes after `__init__`."""

    def __init__(self, tables: ClassifierTables) -> None:
        self._tables = tables
        self._matcher = AliasMatcher(tables.aliases)
        # [rows], each row's own thresholds
        bounds = tables.thresholds[tables.row_target, tables.row_kind]
        self._weak = np.ascontiguousarray(bounds[:, 0])
        self._strong = np.ascontiguousarray(bounds[:, 1])

    @property
    def encoder_id(self) -> str:
        """The encoder that the embeddings must come from."""
        return self._tables.encoder_id

    def classify(
        self, texts: Sequence[str], embeddings: npt.NDArray[np.float32]
    ) -> list[Detection]:
        """Detections for one conversation, at most one per target and layer.

        `texts` are searched for aliases, each alone and joined: whole texts, in reading order.
        `embeddings` [m, dimension] are of `prompt_windows(texts)`; the two need not be aligned.

        Raises:
            TablesError: the embeddings are of another dimension than the tables'.
        """
        if embeddings.ndim != 2 or embeddings.shape[1] != self._tables.embeddings.shape[1]:
            raise TablesError("embeddings do not fit the tables' dimension")
        cosines = best_cosines(embeddings, self._tables.embeddings)
        named = self._matcher.targets(texts)
        detections = [self._by_alias(target, cosines) for target in sorted(named)]
        hits = np.flatnonzero(cosines >= self._weak)
        for target in np.unique(self._tables.row_target[hits]):
            found = self._by_similarity(int(target), cosines, hits)
            if found is not None:
                detections.append(found)
        return detections

    def _by_alias(self, target: int, cosines: npt.NDArray[np.float32]) -> Detection:
        rows = np.flatnonzero((self._tables.row_target == target) & (cosines >= _NAMED_FLOOR))
        return Detection(
            self._tables.target_ids[target],
            Layer.ALIAS,
            Strength.STRONG,
            score=1.0,
            threshold=1.0,
            items=self._items(rows, cosines),
        )

    def _by_similarity(
        self, target: int, cosines: npt.NDArray[np.float32], hits: npt.NDArray[np.intp]
    ) -> Detection | None:
        rows = hits[self._tables.row_target[hits] == target]
        margins = cosines[rows] - self._strong[rows]
        best = rows[int(np.argmax(margins))]
        strong = bool(cosines[best] >= self._strong[best])
        items = self._items(rows, cosines)
        if not strong and not items:
            # A document nearly matched: there is no item whose answer could be forbidden.
            return None
        if not strong:
            prompts = rows[self._tables.row_kind[rows] == RowKind.PROMPT]
            best = prompts[int(np.argmax(cosines[prompts]))]
        threshold = self._strong[best] if strong else self._weak[best]
        return Detection(
            self._tables.target_ids[target],
            Layer.SIMILARITY,
            Strength.STRONG if strong else Strength.WEAK,
            score=float(cosines[best]),
            threshold=float(threshold),
            items=items,
        )

    def _items(
        self, rows: npt.NDArray[np.intp], cosines: npt.NDArray[np.float32]
    ) -> tuple[int, ...]:
        nearest = rows[np.argsort(-cosines[rows], kind="stable")]
        items = (int(item) for item in self._tables.row_item[nearest] if item >= 0)
        return tuple(dict.fromkeys(items))[:MAX_ITEMS]
