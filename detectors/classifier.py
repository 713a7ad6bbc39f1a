"""Is a conversation about a forget target? Aliases and similarity, graded (GUARD, step 1).

Retrieval, not a trained head: on TOFU the greatest cosine to the registered prompts finds
paraphrases that logistic and MLP heads on the same embeddings miss.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detectors.alias import AliasMatcher
from detectors.builder import build_tables
from detectors.detection import Detection, Layer, Strength
from detectors.errors import TablesError
from detectors.similarity import Hits, HostRows, Query, RowSearch
from detectors.tables import ClassifierTables, RowKind
from detectors.windows import prompt_windows

__all__ = ["MAX_ITEMS", "ClassifierTables", "PromptClassifier", "build_tables", "prompt_windows"]

MAX_ITEMS = 8


@dataclass(slots=True)
class Judgement:
    """What is known of one conversation so far: the targets it names, and the rows it reached."""

    named: frozenset[int]
    hits: Hits


class PromptClassifier:
    """Judges conversations by one set of tables. Thread-safe: nothing changes after `__init__`."""

    def __init__(self, tables: ClassifierTables, *, device: str = "cpu") -> None:
        """Take the tables; on another device than the CPU the rows are copied to it."""
        self._tables = tables
        self._matcher = AliasMatcher(tables.aliases)
        # [rows], each row's own thresholds
        bounds = tables.thresholds[tables.row_target, tables.row_kind]
        self._weak = np.ascontiguousarray(bounds[:, 0])
        self._strong = np.ascontiguousarray(bounds[:, 1])
        self._search = self._make_search(device)

    def _make_search(self, device: str) -> RowSearch:
        tables = self._tables
        rows = (tables.embeddings, self._weak, tables.row_target, tables.row_item)
        if device == "cpu":
            return HostRows(*rows)
        from detectors.device_similarity import DeviceRows

        return DeviceRows(*rows, device=device)

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
        judgement = self.begin(texts)
        self.compare([judgement], [embeddings])
        return self.detections(judgement)

    def begin(self, texts: Sequence[str]) -> Judgement:
        """Begin to judge a conversation: search its texts for aliases."""
        return Judgement(frozenset(self._matcher.targets(texts)), Hits.none())

    def compare(
        self, judgements: Sequence[Judgement], embeddings: Sequence[npt.NDArray[np.float32]]
    ) -> None:
        """Compare some windows [m, dimension] of each conversation, all in one product.

        A long conversation may be compared in parts; the order of the parts does not matter.

        Raises:
            TablesError: the embeddings are of another dimension than the tables'.
        """
        dimension = self._tables.embeddings.shape[1]
        if any(part.ndim != 2 or part.shape[1] != dimension for part in embeddings):
            raise TablesError("embeddings do not fit the tables' dimension")
        queries = [
            Query(windows, judgement.named)
            for judgement, windows in zip(judgements, embeddings, strict=True)
        ]
        for judgement, hits in zip(judgements, self._search.find(queries), strict=True):
            judgement.hits = judgement.hits.merged(hits)

    def detections(self, judgement: Judgement) -> list[Detection]:
        """What was found, at most one detection per target and layer."""
        by_target = dict(self._by_target(judgement.hits))
        found = [
            self._by_alias(target, by_target.get(target, Hits.none()))
            for target in sorted(judgement.named)
        ]
        for target, hits in by_target.items():
            similar = self._by_similarity(target, hits)
            if similar is not None:
                found.append(similar)
        return found

    def _by_target(self, hits: Hits) -> Iterator[tuple[int, Hits]]:
        targets = self._tables.row_target[hits.rows]
        order = np.argsort(targets, kind="stable")
        edges = np.flatnonzero(np.diff(targets[order])) + 1
        for part in np.split(order, edges) if len(order) else ():
            yield int(targets[part[0]]), Hits(hits.rows[part], hits.cosines[part])

    def _by_alias(self, target: int, hits: Hits) -> Detection:
        return Detection(
            self._tables.target_ids[target],
            Layer.ALIAS,
            Strength.STRONG,
            score=1.0,
            threshold=1.0,
            items=self._items(hits),
        )

    def _by_similarity(self, target: int, hits: Hits) -> Detection | None:
        # Where the target is named, there are rows below their bounds as well.
        above = hits.cosines >= self._weak[hits.rows]
        hits = Hits(hits.rows[above], hits.cosines[above])
        if not len(hits.rows):
            return None
        margins = hits.cosines - self._strong[hits.rows]
        best = int(np.argmax(margins))
        strong = bool(margins[best] >= 0)
        items = self._items(hits)
        if not strong and not items:
            # A document nearly matched: there is no item whose answer could be forbidden.
            return None
        if not strong:
            prompts = self._tables.row_kind[hits.rows] == RowKind.PROMPT
            best = int(np.argmax(np.where(prompts, hits.cosines, -1.0)))
        bounds = self._strong if strong else self._weak
        return Detection(
            self._tables.target_ids[target],
            Layer.SIMILARITY,
            Strength.STRONG if strong else Strength.WEAK,
            score=float(hits.cosines[best]),
            threshold=float(bounds[hits.rows[best]]),
            items=items,
        )

    def _items(self, hits: Hits) -> tuple[int, ...]:
        nearest = hits.rows[np.argsort(-hits.cosines, kind="stable")]
        found = self._tables.row_item[nearest]
        return tuple(dict.fromkeys(found[found >= 0].tolist()))[:MAX_ITEMS]
