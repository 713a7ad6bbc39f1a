"""The sets of phrases that requests have switched on, packed for the kernels.

A request names targets and items; what that forbids is worked out once when it enters and shared by
every request that names the same ones. A decode step then costs nothing per active phrase.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from guard import kernels
from guard.automaton import Tables
from guard.positions import with_room
from guard.units import Units
from guard.vocabulary import Vocabulary

IDLE_LIMIT = 256

Key = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(slots=True, eq=False)
class ActiveSet:
    """One combination of units: its place in the packed arrays, and how many slots use it.

    The place stays the same as long as the set is in use.
    """

    key: Key
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
        self._sets: dict[Key, ActiveSet] = {}
        self._idle = 0
        self._free: list[int] = []
        self._used = 0
        num_bytes = (tables.num_phrases + 7) // 8
        self.bits: npt.NDArray[np.uint8] = np.zeros((8, num_bytes), np.uint8)
        self.pool: npt.NDArray[np.int32] = np.zeros(1024, np.int32)
        self.bounds: npt.NDArray[np.int64] = np.zeros((8, 3), np.int64)

    def acquire(self, targets: tuple[int, ...], items: tuple[int, ...]) -> ActiveSet:
        """The set of these units, for one more slot.

        Raises:
            IndexError: a unit does not exist in this snapshot.
        """
        key = (targets, items)
        active = self._sets.get(key)
        if active is None:
            active = self._add(key, self._units.phrases(targets, items))
        elif not active.users:
            self._idle -= 1
        active.users += 1
        return active

    def release(self, active: ActiveSet) -> None:
        """One slot fewer uses the set; idle sets stay until room is needed."""
        active.users -= 1
        if not active.users:
            self._idle += 1
            if self._idle > IDLE_LIMIT:
                self._drop_idle()

    def prepare(self, larger_than: int) -> None:
        """Work out the sets of single targets with many phrases before a request waits for them."""
        sizes = np.diff(self._units.start[: self._units.num_targets + 1])
        for target in np.flatnonzero(sizes > larger_than)[:IDLE_LIMIT].tolist():
            self.release(self.acquire((target,), ()))

    def _add(self, key: Key, phrases: npt.NDArray[np.int32]) -> ActiveSet:
        index = self._free.pop() if self._free else len(self._sets)
        always, initial = self._tokens(phrases)
        first, middle = self._used, self._used + len(always)
        last = middle + len(initial)
        self.pool = with_room(self.pool, last)
        self.bits = with_room(self.bits, index + 1)
        self.bounds = with_room(self.bounds, index + 1)
        self.pool[first:middle], self.pool[middle:last] = always, initial
        self.bounds[index] = first, middle, last
        kernels.set_bits(phrases, self.bits, index)
        self._used = last
        active = self._sets[key] = ActiveSet(key, index)
        return active

    def _tokens(
        self, phrases: npt.NDArray[np.int32]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Tokens that complete a phrase by themselves: wherever they stand, or at a word's start.

        Ascending, so that a row's logits are written in the order they lie in memory.
        """
        tables, vocabulary = self._tables, self._vocabulary
        marks = np.zeros(vocabulary.size, np.uint8)
        kernels.mark_tokens(
            phrases,
            tables.inside_start,
            tables.inside_token,
            tables.initial,
            vocabulary.order,
            marks,
        )
        return np.flatnonzero(marks == 2), np.flatnonzero(marks == 1)

    def _drop_idle(self) -> None:
        """Forget the idle sets; the others keep their index and move to the front of the pool."""
        kept = [s for s in self._sets.values() if s.users]
        self._free += [s.index for s in self._sets.values() if not s.users]
        self._sets = {s.key: s for s in kept}
        self._idle = self._used = 0
        # In the order of the pool, so that nothing is overwritten before it has moved.
        for active in sorted(kept, key=lambda s: int(self.bounds[s.index, 0])):
            first, _, last = self.bounds[active.index].tolist()
            self.pool[self._used : self._used + last - first] = self.pool[first:last]
            self.bounds[active.index] -= first - self._used
            self._used += last - first
