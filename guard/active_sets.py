"""The sets of phrases that requests have switched on, packed for the kernels.

A request names targets and items; what that forbids is worked out once when it enters and shared by
every request that names the same ones. A decode step then costs nothing per active phrase.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from guard import kernels
from guard.automaton import Tables
from guard.loaded import Pause, no_pause
from guard.positions import with_room
from guard.stream import CharClass
from guard.units import Units
from guard.vocabulary import Vocabulary

IDLE_LIMIT = 256
# Phrases that are worked on at once; a unit with more is made ready before a request names it.
LARGE_SET = 20_000

Key = tuple[tuple[int, ...], tuple[int, ...]]
# Token ids [n] with what each is to lose [n].
Part = tuple[npt.NDArray[np.integer[Any]], npt.NDArray[np.float32]]


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
        amounts: [room] float32, beside `pool`: logits to subtract; 0 for forbidden tokens.
        bounds: [capacity, 5] int64: pool[b0:b1] is always forbidden, pool[b1:b2] only where no
            word goes on; pool[b2:b3] is always penalised, pool[b3:b4] only where no word goes on.
        has_penalties: whether any set ever had penalties.
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
        self.amounts: npt.NDArray[np.float32] = np.zeros(1024, np.float32)
        self.bounds: npt.NDArray[np.int64] = np.zeros((8, 5), np.int64)
        self.has_penalties = False

    def acquire(self, targets: tuple[int, ...], items: tuple[int, ...]) -> ActiveSet:
        """The set of these units, for one more slot.

        Raises:
            IndexError: a unit does not exist in this snapshot.
        """
        key = (targets, items)
        active = self._sets.get(key)
        if active is None:
            active = self._add(key)
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

    @property
    def is_used(self) -> bool:
        """Whether any slot uses any set."""
        return len(self._sets) > self._idle

    def prepare(self, pause: Pause = no_pause) -> None:
        """Work out the sets of single targets with many phrases before a request waits for them.

        `pause` is called after every piece of work.
        """
        sizes = np.diff(self._units.start[: self._units.num_targets + 1])
        for target in np.flatnonzero(sizes > LARGE_SET)[:IDLE_LIMIT].tolist():
            self._add(((target,), ()), pause)
            self._idle += 1

    def _add(self, key: Key, pause: Pause = no_pause) -> ActiveSet:
        phrases = self._units.phrases(*key)
        index = self._free.pop() if self._free else len(self._sets)
        self.bits = with_room(self.bits, index + 1)
        self.bits[index] = 0
        parts = [*self._activate(phrases, index, pause), *self._penalties(key)]
        ends = self._used + np.cumsum([len(tokens) for tokens, _ in parts])
        first, last = self._used, int(ends[-1])
        self.pool = with_room(self.pool, last)
        self.amounts = with_room(self.amounts, last)
        self.bounds = with_room(self.bounds, index + 1)
        self.pool[first:last] = np.concatenate([tokens for tokens, _ in parts])
        self.amounts[first:last] = np.concatenate([amounts for _, amounts in parts])
        self.bounds[index] = first, *ends
        self.has_penalties |= bool(ends[1] < last)
        self._used = last
        active = self._sets[key] = ActiveSet(key, index)
        return active

    def _activate(self, phrases: npt.NDArray[np.int32], index: int, pause: Pause) -> list[Part]:
        """Set the phrases' bits; gives the tokens that complete one by themselves.

        First those that do so wherever they stand, then those at a word's start; ascending, so that
        a row's logits are written in the order they lie in memory.
        """
        tables, vocabulary = self._tables, self._vocabulary
        marks = np.zeros(vocabulary.size, np.uint8)
        edges = np.zeros(len(vocabulary.order) + 1, np.int32)
        for low in range(0, len(phrases), LARGE_SET):
            kernels.activate(
                phrases[low : low + LARGE_SET],
                tables.inside_start,
                tables.inside_token,
                tables.initial,
                self.bits,
                index,
                edges,
                marks,
            )
            pause()
        kernels.mark_starts(edges, vocabulary.order, marks)
        found = (np.flatnonzero(marks == kind) for kind in (2, 1))
        return [(tokens, np.zeros(len(tokens), np.float32)) for tokens in found]

    def _penalties(self, key: Key) -> list[Part]:
        """Tokens to penalise: those that bring their own border, and those that need one."""
        tokens, amounts = self._units.penalties.of(self._units.chosen(*key))
        bare = self._vocabulary.bodies.first[tokens] == CharClass.WORD
        return [(tokens[chosen], amounts[chosen]) for chosen in (~bare, bare)]

    def _drop_idle(self) -> None:
        """Forget the idle sets; the others keep their index and move to the front of the pool."""
        kept = [s for s in self._sets.values() if s.users]
        self._free += [s.index for s in self._sets.values() if not s.users]
        self._sets = {s.key: s for s in kept}
        self._idle = self._used = 0
        # In the order of the pool, so that nothing is overwritten before it has moved.
        for active in sorted(kept, key=lambda s: int(self.bounds[s.index, 0])):
            first, *_, last = self.bounds[active.index].tolist()
            self.pool[self._used : self._used + last - first] = self.pool[first:last]
            self.amounts[self._used : self._used + last - first] = self.amounts[first:last]
            self.bounds[active.index] -= first - self._used
            self._used += last - first
