"""Penalties by meaning: tokens that a unit makes less likely without forbidding them.

The soft half of GUARD's semantic match (arXiv 2505.13312): a word that is near an active forbidden
phrase, but not near enough to be vetoed, costs its tokens some logits. What is near enough becomes
a phrase of the automaton and needs nothing here. Lists are per unit, already merged over the unit's
phrases, so that a request's are worked out when it enters and a step only subtracts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MAX_TOKENS = 512

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Penalties:
    """Token ids and amounts per unit, in the order of `guard.units.Units`. N entries.

    Attributes:
        start: [units + 1] int32 row pointers into the others.
        token: [N] int32 token ids, ascending and distinct within a unit.
        amount: [N] float32 logits to subtract, greater than 0.
    """

    start: Int32
    token: Int32
    amount: Float32

    @classmethod
    def none(cls, num_units: int) -> Penalties:
        """No penalties for this many units."""
        return cls.build([{}] * num_units)

    @classmethod
    def build(cls, units: Sequence[Mapping[int, float]]) -> Penalties:
        """From token id -> amount of each unit."""
        lengths = np.array([0, *map(len, units)], np.int64)
        pairs = [pair for unit in units for pair in sorted(unit.items())]
        return cls(
            np.cumsum(lengths).astype(np.int32),
            np.array([token for token, _ in pairs], np.int32),
            np.array([amount for _, amount in pairs], np.float32),
        )

    def with_units(self, more: int) -> Penalties:
        """With so many units behind the others that have none."""
        start = np.concatenate([self.start, np.repeat(self.start[-1:], more)])
        return Penalties(start, self.token, self.amount)

    def of(self, units: Sequence[int]) -> tuple[Int32, Float32]:
        """Tokens [n], ascending and distinct, and for each its greatest amount in the units.

        Of more than `MAX_TOKENS` those that lose most are kept, which bounds the cost of a step.
        """
        places = [slice(self.start[unit], self.start[unit + 1]) for unit in units]
        tokens = np.concatenate([np.zeros(0, np.int32), *(self.token[p] for p in places)])
        amounts = np.concatenate([np.zeros(0, np.float32), *(self.amount[p] for p in places)])
        distinct, where = np.unique(tokens, return_inverse=True)
        greatest = np.zeros(len(distinct), np.float32)
        np.maximum.at(greatest, where, amounts)
        kept = np.sort(np.argsort(-greatest, kind="stable")[:MAX_TOKENS])
        return distinct[kept].astype(np.int32), greatest[kept]

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """The arrays by name, for storage."""
        return {
            "penalty_start": self.start,
            "penalty_token": self.token,
            "penalty_amount": self.amount,
        }

    @classmethod
    def load(cls, arrays: Mapping[str, npt.NDArray[np.generic]]) -> Penalties:
        """The inverse of `arrays`.

        Raises:
            KeyError: an array is missing.
        """
        names = ("penalty_start", "penalty_token", "penalty_amount")
        return cls(*(arrays[name] for name in names))  # type: ignore[arg-type]
