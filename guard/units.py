"""Units: what a request can switch on. Each target is one, and so is each of its forget items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Units:
    """Phrase ids per unit, targets first, then the items of all targets in order.

    Attributes:
        num_targets: T; unit t < T is target t, unit T + i is item i.
        start: [units + 1] int32 row pointers into `phrase`.
        phrase: int32 phrase ids.
    """

    num_targets: int
    start: npt.NDArray[np.int32]
    phrase: npt.NDArray[np.int32]

    @classmethod
    def build(cls, targets: Sequence[Sequence[int]], items: Sequence[Sequence[int]]) -> Units:
        """From the phrase ids of each target and of each item."""
        units = [sorted(set(phrases)) for phrases in (*targets, *items)]
        lengths = np.array([0, *map(len, units)], np.int64)
        flat = np.array([phrase for unit in units for phrase in unit], np.int32)
        return cls(len(targets), np.cumsum(lengths).astype(np.int32), flat)

    def phrases(self, targets: Sequence[int], items: Sequence[int]) -> npt.NDArray[np.int32]:
        """The distinct phrases of some units.

        Raises:
            IndexError: there is no such unit.
        """
        chosen = [*targets, *(self.num_targets + item for item in items)]
        if any(t >= self.num_targets for t in targets) or any(
            not 0 <= unit < len(self.start) - 1 for unit in chosen
        ):
            raise IndexError("no such target or item in this policy snapshot")
        parts = [self.phrase[self.start[u] : self.start[u + 1]] for u in chosen]
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
        }

    @classmethod
    def load(cls, arrays: Mapping[str, npt.NDArray[np.generic]]) -> Units:
        """The inverse of `arrays`."""
        return cls(int(arrays["num_targets"][0]), arrays["unit_start"], arrays["unit_phrase"])  # type: ignore[arg-type]
