"""Units: what a request can switch on. Each target is one, and so is each of its forget items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from guard.semantic_penalties import Penalties

# Phrase ids.
Ids = Sequence[int] | npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Units:
    """Phrase ids and penalties per unit, targets first, then the items of all targets in order.

    Attributes:
        num_targets: T; unit t < T is target t, unit T + i is item i.
        start: [units + 1] int32 row pointers into `phrase`.
        phrase: int32 phrase ids.
        penalties: tokens that each unit makes less likely.
    """

    num_targets: int
    start: npt.NDArray[np.int32]
    phrase: npt.NDArray[np.int32]
    penalties: Penalties

    @classmethod
    def build(
        cls,
        targets: Sequence[Ids],
        items: Sequence[Ids],
        penalties: Penalties | None = None,
    ) -> Units:
        """From the phrase ids of each target and of each item; without penalties there are none."""
        units = [np.asarray(phrases, np.int64) for phrases in (*targets, *items)]
        number = np.repeat(np.arange(len(units)), list(map(len, units)))
        # Sorts by unit, then by phrase, and leaves out what a unit has twice.
        distinct = np.unique(number << 32 | np.concatenate([np.zeros(0, np.int64), *units]))
        start = np.searchsorted(distinct, np.arange(len(units) + 1) << 32).astype(np.int32)
        flat = (distinct & 0xFFFFFFFF).astype(np.int32)
        return cls(len(targets), start, flat, penalties or Penalties.none(len(units)))

    def chosen(self, targets: Sequence[int], items: Sequence[int]) -> list[int]:
        """The places of some targets and items among the units.

        Raises:
            IndexError: there is no such unit.
        """
        chosen = [*targets, *(self.num_targets + item for item in items)]
        if any(t >= self.num_targets for t in targets) or any(
            not 0 <= unit < len(self.start) - 1 for unit in chosen
        ):
            raise IndexError("no such target or item in this policy snapshot")
        return chosen

    def phrases(self, targets: Sequence[int], items: Sequence[int]) -> npt.NDArray[np.int32]:
        """The distinct phrases [n] of some units, ascending.

        Raises:
            IndexError: there is no such unit.
        """
        parts = [
            self.phrase[self.start[u] : self.start[u + 1]] for u in self.chosen(targets, items)
        ]
        if len(parts) == 1:
            # A unit's phrases are distinct and sorted as they are.
            return np.array(parts[0])
        return np.unique(np.concatenate([np.zeros(0, np.int32), *parts]))

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """The arrays by name, for storage."""
        return {
            "unit_start": self.start,
            "unit_phrase": self.phrase,
            "num_targets": np.array([self.num_targets], np.int32),
            **self.penalties.arrays(),
        }

    @classmethod
    def load(cls, arrays: Mapping[str, npt.NDArray[np.generic]]) -> Units:
        """The inverse of `arrays`.

        Raises:
            KeyError: an array is missing.
        """
        return cls(
            int(arrays["num_targets"][0]),
            arrays["unit_start"],  # type: ignore[arg-type]
            arrays["unit_phrase"],  # type: ignore[arg-type]
            Penalties.load(arrays),
        )
