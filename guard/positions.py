"""Where texts stand in the automaton: one as a value, a whole batch as arrays for the kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from guard.stream import CharClass

Number = TypeVar("Number", bound=np.generic)


@dataclass(slots=True)
class Position:
    """Where a text stands in the automaton.

    `state` is the trie state, `before` the class of the last character, `pending` the bytes of a
    character that is not finished yet.
    """

    state: int = 0
    before: int = int(CharClass.OTHER)
    pending: bytes = b""


class Positions:
    """The positions of a batch, by slot number.

    Attributes:
        states: [capacity] int32 trie states.
        classes: [capacity] uint8, `CharClass` of the last character.
        unfinished: [capacity] bool, whether the text ends inside a character.
        sets: [capacity] int32, index of the slot's active set.
        pending: slot number -> bytes of the unfinished character.
    """

    def __init__(self, capacity: int = 64) -> None:
        self.states: npt.NDArray[np.int32] = np.zeros(capacity, np.int32)
        self.classes: npt.NDArray[np.uint8] = np.zeros(capacity, np.uint8)
        self.unfinished: npt.NDArray[np.bool_] = np.zeros(capacity, np.bool_)
        self.sets: npt.NDArray[np.int32] = np.zeros(capacity, np.int32)
        self.pending: dict[int, bytes] = {}
        self._free: list[int] = []
        self._used = 0

    def take(self, position: Position, active: int) -> int:
        """A slot number for a text at `position` under active set `active`."""
        slot = self._free.pop() if self._free else self._used
        self._used = max(self._used, slot + 1)
        self._reserve(self._used)
        self.put(slot, position)
        self.sets[slot] = active
        return slot

    def put(self, slot: int, position: Position) -> None:
        """Set where a slot stands."""
        self.states[slot], self.classes[slot] = position.state, position.before
        self.unfinished[slot] = bool(position.pending)
        if position.pending:
            self.pending[slot] = position.pending
        else:
            self.pending.pop(slot, None)

    def get(self, slot: int) -> Position:
        """Where a slot stands."""
        return Position(
            int(self.states[slot]), int(self.classes[slot]), self.pending.get(slot, b"")
        )

    def free(self, slot: int) -> None:
        """The slot's number may be used again."""
        self.pending.pop(slot, None)
        self._free.append(slot)

    def _reserve(self, capacity: int) -> None:
        self.states = with_room(self.states, capacity)
        self.classes = with_room(self.classes, capacity)
        self.unfinished = with_room(self.unfinished, capacity)
        self.sets = with_room(self.sets, capacity)


def with_room(array: npt.NDArray[Number], rows: int) -> npt.NDArray[Number]:
    """The array, or a larger copy of it when it has fewer rows than asked for."""
    if rows <= array.shape[0]:
        return array
    larger = np.zeros((max(rows, 2 * array.shape[0]), *array.shape[1:]), array.dtype)
    larger[: array.shape[0]] = array
    return larger
