"""Similarity of conversations to registered rows: each row whose best cosine reaches its bound.

One product compares the windows of all conversations of a batch, so the rows are read once for all
of them. It is exact, and done in blocks of rows, so memory does not grow with their number; what
leaves a block are only its hits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

# Cosines of a block: 8 MB of them, whatever the number of windows and rows.
_PRODUCT_CELLS = 1 << 21
_FEWEST_ROWS = 256

# Where a target is named, its nearest items count from this cosine on.
NAMED_FLOOR = 0.25

Embeddings = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Hits:
    """Rows that were reached, ascending and without repetition, with their greatest cosines.

    `scores` are their greatest scores by head and cosine (`detectors.heads`) or, before those are
    known, the cosines themselves.
    """

    rows: npt.NDArray[np.int64]  # [k]
    cosines: npt.NDArray[np.float32]  # [k]
    scores: npt.NDArray[np.float32]  # [k]

    @classmethod
    def of(cls, rows: npt.NDArray[np.int64], cosines: npt.NDArray[np.float32]) -> Hits:
        """Hits whose scores are not known yet."""
        return cls(rows, cosines, cosines)

    @classmethod
    def none(cls) -> Hits:
        """No row."""
        return cls.of(np.zeros(0, np.int64), np.zeros(0, np.float32))

    def chosen(self, which: npt.NDArray[Any]) -> Hits:
        """Some of them, by a mask [k] or by their places."""
        return Hits(self.rows[which], self.cosines[which], self.scores[which])

    def merged(self, other: Hits) -> Hits:
        """The rows of both, each with the greater cosine and the greater score."""
        if not len(other.rows) or not len(self.rows):
            return self if len(self.rows) else other
        both = joined([self, other])
        both = both.chosen(np.argsort(both.rows, kind="stable"))
        starts = np.flatnonzero(np.diff(both.rows, prepend=-1))
        return Hits(
            both.rows[starts],
            np.maximum.reduceat(both.cosines, starts),
            np.maximum.reduceat(both.scores, starts),
        )


@dataclass(frozen=True, slots=True)
class Query:
    """A conversation to compare: its windows [m, d], the targets that it names, and whether it
    describes somebody (`detectors.descriptions`).
    """

    windows: Embeddings
    named: frozenset[int] = frozenset()
    described: bool = False


class RowSearch(Protocol):
    """Finds the rows that conversations reach."""

    def find(self, queries: Sequence[Query]) -> list[Hits]:
        """The hits of each conversation."""


class HostRows:
    """A search on the CPU. Thread-safe; memory-mapped rows stay where they are.

    A row is hit where its cosine to some window is at least its bound, for a conversation that
    describes somebody its lower bound, or, where its target is named and the row belongs to an
    item, at least `NAMED_FLOOR`.
    """

    def __init__(
        self,
        rows: Embeddings,
        bounds: npt.NDArray[np.float32],
        lower: npt.NDArray[np.float32],
        targets: npt.NDArray[np.int32],
        items: npt.NDArray[np.int32],
    ) -> None:
        """Take rows [n, d], and per row both bounds, target and item (-1 for none), each [n]."""
        self._rows = rows
        self._bounds = bounds
        self._lower = lower
        self._targets = targets
        self._items = items

    def find(self, queries: Sequence[Query]) -> list[Hits]:
        """The hits of each conversation."""
        asked = [number for number, query in enumerate(queries) if len(query.windows)]
        found = [Hits.none() for _ in queries]
        if not asked or not len(self._rows):
            return found
        windows = np.concatenate([queries[number].windows for number in asked])
        starts = segment_starts([len(queries[number].windows) for number in asked])
        parts: list[list[Hits]] = [[] for _ in asked]
        size = block_rows(len(windows))
        for first in range(0, len(self._rows), size):
            block = slice(first, first + size)
            best = windows @ self._rows[block].T
            if len(asked) < len(windows):
                best = np.maximum.reduceat(best, starts, axis=0)
            for place, number in enumerate(asked):
                bounds = self._bounds_for(queries[number], block)
                near = np.flatnonzero(best[place] >= bounds)
                if len(near):
                    parts[place].append(Hits.of(near + first, best[place, near]))
        for place, number in enumerate(asked):
            found[number] = joined(parts[place])
        return found

    def _bounds_for(self, query: Query, block: slice) -> npt.NDArray[np.float32]:
        bounds = (self._lower if query.described else self._bounds)[block]
        if not query.named:
            return bounds
        lowered = np.isin(self._targets[block], list(query.named)) & (self._items[block] >= 0)
        return np.where(lowered, np.minimum(bounds, np.float32(NAMED_FLOOR)), bounds)


def block_rows(windows: int) -> int:
    """How many rows are compared with so many windows at once."""
    return max(_FEWEST_ROWS, _PRODUCT_CELLS // windows)


def segment_starts(sizes: Sequence[int]) -> npt.NDArray[np.int64]:
    """Where each conversation's windows begin, [conversations], for non-empty ones in a row."""
    return np.concatenate([[0], np.cumsum(sizes[:-1])]).astype(np.int64)


def joined(parts: Sequence[Hits]) -> Hits:
    """Hits of blocks in order as one."""
    if not parts:
        return Hits.none()
    return Hits(
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.cosines for part in parts]),
        np.concatenate([part.scores for part in parts]),
    )


def best_cosine_per_text(
    windows: Embeddings, owners: npt.NDArray[np.int32], rows: Embeddings
) -> npt.NDArray[np.float32]:
    """For each text its greatest cosine to any of `rows` [n, d]; [max(owners) + 1].

    `owners` [m] tells which text each of `windows` [m, d] was cut from; -1 where it has none.
    """
    texts = int(owners.max()) + 1 if len(owners) else 0
    best = np.full(texts, -1.0, dtype=np.float32)
    if not len(windows):
        return best
    size = block_rows(len(windows))
    for first in range(0, len(rows), size):
        block = (windows @ rows[first : first + size].T).max(axis=1)
        np.maximum.at(best, owners, block)
    return best
