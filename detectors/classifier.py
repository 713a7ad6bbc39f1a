"""Is a conversation about a forget target? Aliases and similarity, graded (GUARD, step 1).

Retrieval carries it: on TOFU the greatest cosine to the registered prompts finds paraphrases that
logistic and MLP heads on the same embeddings miss. Strong evidence adds a head in closed form.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detectors.alias import AliasMatcher
from detectors.builder import build_tables
from detectors.descriptions import describes
from detectors.detection import Detection, Layer, Strength
from detectors.errors import TablesError
from detectors.heads import NO_SCORE, scores
from detectors.registry import CEILING, PROMPT_FLOOR
from detectors.similarity import Embeddings, Hits, HostRows, Query, RowSearch
from detectors.tables import ClassifierTables, RowKind
from detectors.windows import prompt_windows

__all__ = ["MAX_ITEMS", "ClassifierTables", "PromptClassifier", "build_tables", "prompt_windows"]

MAX_ITEMS = 8
# Where a subject is described, so many of all registered prompts are faint evidence, the nearest.
DESCRIBED_ROWS = 16


@dataclass(slots=True)
class Judgement:
    """What is known of one conversation so far: the targets it names, whether its last text
    describes somebody, and the rows it reached.
    """

    named: frozenset[int]
    described: bool
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
        self._is_prompt = tables.row_kind == RowKind.PROMPT
        # Strong evidence by a prompt may have a smaller cosine than weak evidence by another.
        self._least = np.where(
            self._is_prompt, np.minimum(self._weak, np.float32(PROMPT_FLOOR)), self._weak
        )
        # Where a subject is described.
        described = np.where(self._is_prompt, tables.described[tables.row_target], np.float32(2))
        self._lower = np.minimum(self._weak, described)
        self._search = self._make_search(device)

    def _make_search(self, device: str) -> RowSearch:
        tables = self._tables
        bounds = self._least, np.minimum(self._least, self._lower)
        rows = (tables.embeddings, *bounds, tables.row_target, tables.row_item)
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
        """Begin to judge a conversation: search its texts for aliases, the last for a description.

        Were earlier turns to count, one would go on steering what is asked after it.
        """
        named = frozenset(self._matcher.targets(texts))
        return Judgement(named, bool(texts) and describes(texts[-1]), Hits.none())

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
            Query(windows, judgement.named, judgement.described)
            for judgement, windows in zip(judgements, embeddings, strict=True)
        ]
        found = self._search.find(queries)
        for judgement, query, hits in zip(judgements, queries, found, strict=True):
            judgement.hits = judgement.hits.merged(self._scored(query.windows, hits))

    def _scored(self, windows: Embeddings, hits: Hits) -> Hits:
        """Hits with the scores of prompt rows by their targets' heads."""
        near = np.flatnonzero(self._is_prompt[hits.rows] & (hits.cosines >= PROMPT_FLOOR))
        found = np.where(self._is_prompt[hits.rows], np.float32(NO_SCORE), hits.cosines)
        if len(near):
            rows = hits.rows[near]
            heads = self._tables.heads[self._tables.row_target[rows]]
            found[near] = scores(windows, self._tables.embeddings[rows], heads, PROMPT_FLOOR)
        return Hits(hits.rows, hits.cosines, found)

    def detections(self, judgement: Judgement) -> list[Detection]:
        """What was found, at most one detection per target and layer."""
        by_target = dict(self._by_target(judgement.hits))
        cut = self._described_cut(judgement)
        found = [
            self._by_alias(target, by_target.get(target, Hits.none()))
            for target in sorted(judgement.named)
        ]
        for target, hits in by_target.items():
            similar = self._by_similarity(target, hits, cut)
            if similar is not None:
                found.append(similar)
        return found

    def _described_cut(self, judgement: Judgement) -> float:
        """The least cosine that a described subject's rows must have to be among the nearest."""
        if not judgement.described:
            return np.inf
        prompts = judgement.hits.cosines[self._is_prompt[judgement.hits.rows]]
        if len(prompts) <= DESCRIBED_ROWS:
            return -1.0
        return float(np.partition(prompts, -DESCRIBED_ROWS)[-DESCRIBED_ROWS])

    def _by_target(self, hits: Hits) -> Iterator[tuple[int, Hits]]:
        targets = self._tables.row_target[hits.rows]
        order = np.argsort(targets, kind="stable")
        edges = np.flatnonzero(np.diff(targets[order])) + 1
        for part in np.split(order, edges) if len(order) else ():
            yield int(targets[part[0]]), hits.chosen(part)

    def _by_alias(self, target: int, hits: Hits) -> Detection:
        return Detection(
            self._tables.target_ids[target],
            Layer.ALIAS,
            Strength.STRONG,
            score=1.0,
            threshold=1.0,
            items=self._items(hits),
        )

    def _by_similarity(self, target: int, hits: Hits, cut: float) -> Detection | None:
        # Where the target is named, there are rows below their bounds as well.
        strong = self._are_strong(hits)
        above = strong | (hits.cosines >= self._weak[hits.rows])
        if not above.any():
            return self._by_description(target, hits, cut)
        hits, strong = hits.chosen(above), strong[above]
        items = self._items(hits)
        if strong.any():
            strength = Strength.STRONG
            score, threshold = self._best(hits.chosen(strong))
        elif items:
            prompts = hits.chosen(self._is_prompt[hits.rows])
            best = int(np.argmax(prompts.cosines))
            strength = Strength.WEAK
            score, threshold = prompts.cosines[best], self._weak[prompts.rows[best]]
        else:
            # A document nearly matched: there is no item whose answer could be forbidden.
            return None
        return Detection(
            self._tables.target_ids[target],
            Layer.SIMILARITY,
            strength,
            score=float(score),
            threshold=float(threshold),
            items=items,
        )

    def _by_description(self, target: int, hits: Hits, cut: float) -> Detection | None:
        bounds = np.maximum(self._lower[hits.rows], np.float32(cut))
        hits = hits.chosen(self._is_prompt[hits.rows] & (hits.cosines >= bounds))
        if not len(hits.rows):
            return None
        best = int(np.argmax(hits.cosines))
        return Detection(
            self._tables.target_ids[target],
            Layer.SIMILARITY,
            Strength.FAINT,
            score=float(hits.cosines[best]),
            threshold=float(self._lower[hits.rows[best]]),
            items=self._items(hits),
        )

    def _are_strong(self, hits: Hits) -> npt.NDArray[np.bool_]:
        verbatim = self._is_prompt[hits.rows] & (hits.cosines >= CEILING)
        found: npt.NDArray[np.bool_] = verbatim | (hits.scores >= self._strong[hits.rows])
        return found

    def _best(self, strong: Hits) -> tuple[np.float32, np.float32]:
        """Score and threshold of the row that is farthest above its own.

        A prompt's row has two, of its score and of its cosine: told is what it is less above.
        """
        bounds = self._strong[strong.rows]
        floors = np.where(self._is_prompt[strong.rows], np.float32(PROMPT_FLOOR), -np.inf)
        by_score, by_cosine = strong.scores - bounds, strong.cosines - floors
        margins = np.minimum(by_score, by_cosine)
        best = int(np.argmax(margins))
        if margins[best] < 0:
            # Only a nearly verbatim repetition.
            return strong.cosines.max(), np.float32(CEILING)
        if by_cosine[best] < by_score[best]:
            return strong.cosines[best], np.float32(PROMPT_FLOOR)
        return strong.scores[best], bounds[best]

    def _items(self, hits: Hits) -> tuple[int, ...]:
        nearest = hits.rows[np.argsort(-hits.cosines, kind="stable")]
        found = self._tables.row_item[nearest]
        return tuple(dict.fromkeys(found[found >= 0].tolist()))[:MAX_ITEMS]
