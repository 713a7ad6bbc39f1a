"""What a decode step of the worker works on: slots, and a batch of them by policy.

Knows neither engines nor how anything is forbidden: `guard.steering` fills and uses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from guard.active_sets import ActiveSet
from guard.ledger import CloseReason
from guard.token_filter import TokenFilter
from guard.uld.rules import Rules
from guard.uld.subtracting import Subtraction
from guard.veto import Veto


@dataclass(frozen=True, slots=True, eq=False)
class WorkerPolicy:
    """What a policy forbids: phrases and what completes an n-gram; and what it subtracts."""

    token_filter: TokenFilter
    veto: Veto
    rules: Rules


@dataclass(slots=True, eq=False)
class Slot:
    """One steered request in the batch.

    `number` is its place in the packed positions, -1 for none. `output` is the engine's live list
    of generated ids and `seen` how many of them the position has taken in. `constrained` says that
    other rules (a grammar, allowed tokens) narrow the row too, so that nothing may be left to
    sample. `subtraction` is that of the assistants of its targets.
    """

    nonce: int
    output: Sequence[int]
    seen: int
    constrained: bool
    policy: WorkerPolicy | None = None
    active: ActiveSet | None = None
    number: int = -1
    subtraction: Subtraction | None = None
    closed: CloseReason | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """The open slots of a batch that share a policy, with their rows and numbers [n].

    `outputs` are the slots' live lists and `expected` their lengths if each gets one more token.
    """

    policy: WorkerPolicy
    slots: list[Slot]
    rows: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.int64]
    outputs: list[Sequence[int]]
    expected: list[int]


@dataclass(frozen=True, slots=True)
class Batch:
    """What a step works on; stays the same until a request enters, leaves, moves or is closed."""

    step: list[tuple[int, Slot]]
    groups: list[Group]
    subtracted: list[tuple[int, Slot, Subtraction]]
    constrained: list[tuple[int, Slot]]
    closed: list[int]

    @classmethod
    def of(cls, step: list[tuple[int, Slot]]) -> Batch:
        """Arrange the rows of a step, each with its slot."""
        groups: dict[int, list[tuple[int, Slot]]] = {}
        for row, slot in step:
            if slot.closed is None:
                groups.setdefault(id(slot.policy), []).append((row, slot))
        return cls(
            step,
            [_group(members) for members in groups.values()],
            [
                (row, slot, slot.subtraction)
                for row, slot in step
                if slot.subtraction is not None and slot.closed is None
            ],
            [(row, slot) for row, slot in step if slot.constrained and slot.closed is None],
            [row for row, slot in step if slot.closed is not None],
        )


def _group(members: Sequence[tuple[int, Slot]]) -> Group:
    policy = members[0][1].policy
    assert policy is not None
    return Group(
        policy,
        [slot for _, slot in members],
        np.array([row for row, _ in members], np.int64),
        np.array([slot.number for _, slot in members], np.int64),
        [slot.output for _, slot in members],
        [slot.seen + 1 for _, slot in members],
    )
