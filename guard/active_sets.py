"""The sets of phrases that requests have switched on, packed for the kernels.

A request names targets and items; what that forbids is worked out once when it enters and shared by
every request that names the same ones. A decode step then costs nothing per active phrase.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from guard.automaton import Tables
from guard.units import Units
from guard.vocabulary import Vocabulary

IDLE_LIMIT = 256

Number = TypeVar("Number", bound=np.generic)


@dataclass(slots=True, eq=False)
class ActiveSet:
    """One combination of units: its place in the packed arrays, and how many slots use it."""

    key: tuple[tuple[int, ...], tuple[int, ...]]
    index: int
    users: int = 0


class ActiveSets:
    """Active sets of one policy snapshot.

    Attributes:
        bits: [capacity, ceil(P / 8)] uint8, bit p of row i: phrase p is active in set i.
        pool: [room] int32 token ids.
        bounds: [capacity, 3] int64: pool[b0:b1] is always forbidden, pool[b1:b2] only where no
            word goes on.
    """

    def __init__(self, tables: Tables, units: Units, vocabulary: Vocabulary) -> None:
        self._tables = tables
        self._units = units
        self._vocabulary = vocabulary
        self._sets: dict[tuple[tuple[int, ...], tuple[int, ...]], ActiveSet] = {}
        num_bytes = (tables.num_phrases + 7) // 8
        self.bits: npt.NDArray[np.uint8] = np.zeros((8, num_bytes), np.uint8)
        self.pool: npt.NDArray[np.int32] = np.zeros(1024, np.int32)
        self.bounds: npt.NDArray[np.int64] = np.zeros((8, 3), np.int64)
        self._used = 0

    def acquire(self, targets: tuple[int, ...], items: tuple[int, ...]) -> ActiveSet:
        """The set of these units, for one more slot.

        Raises:
            IndexError: a unit does not exist in this snapshot.
        """
        key = (targets, items)
        active = self._sets.get(key)
        if active is None:
            phrases = self._units.phrases(targets, items)
            if len(self._sets) >= IDLE_LIMIT:
                self._drop_idle()
            active = self._add(key, phrases)
        active.users += 1
        return active

    def release(self, active: ActiveSet) -> None:
        """One slot fewer uses the set; idle sets stay until room is needed."""
        active.users -= 1

    def _add(
        self, key: tuple[tuple[int, ...], tuple[int, ...]], phrases: npt.NDArray[np.int32]
    ) -> ActiveSet:
        active = self._sets[key] = ActiveSet(key, len(self._sets))
        self._write(active, phrases)
        return active

    def _write(self, active: ActiveSet, phrases: npt.NDArray[np.int32]) -> None:
        always, initial = self._tokens(phrases)
        first, middle = self._used, self._used + len(always)
        last = middle + len(initial)
        self.pool = _with_room(self.pool, last)
        self.bits = _with_room(self.bits, active.index + 1)
        self.bounds = _with_room(self.bounds, active.index + 1)
        self.pool[first:middle], self.pool[middle:last] = always, initial
        self.bounds[active.index] = first, middle, last
        on = np.zeros(self.bits.shape[1] * 8, np.uint8)
        on[phrases] = 1
        self.bits[active.index] = np.packbits(on, bitorder="little")
        self._used = last

    def _tokens(
        self, phrases: npt.NDArray[np.int32]
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        tables, order = self._tables, self._vocabulary.order
        start = tables.inside_start
        inside = [tables.inside_token[start[p] : start[p + 1]] for p in phrases]
        initial = [order[low:high] for low, high in tables.initial[phrases]]
        always = np.unique(np.concatenate([_NO_TOKENS, *inside]))
        return always, np.setdiff1d(np.concatenate([_NO_TOKENS, *initial]), always)

    def _drop_idle(self) -> None:
        """Pack the sets in use to the front; the idle ones are worked out again when needed."""
        kept = [s for s in self._sets.values() if s.users]
        self._sets = {s.key: s for s in kept}
        self._used = 0
        for index, active in enumerate(kept):
            active.index = index
            self._write(active, self._units.phrases(*active.key))


_NO_TOKENS = np.zeros(0, np.int32)


def _with_room(array: npt.NDArray[Number], rows: int) -> npt.NDArray[Number]:
    """The array, or a larger copy of it when it has fewer rows than asked for."""
    if rows <= array.shape[0]:
        return array
    larger = np.zeros((max(rows, 2 * array.shape[0]), *array.shape[1:]), array.dtype)
    larger[: array.shape[0]] = array
    return larger
