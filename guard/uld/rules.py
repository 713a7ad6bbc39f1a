"""What a policy subtracts: per target unit an assistant by digest, its weight and its filter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from detectors.targets import ForgetTarget
from guard.errors import CompileError


@dataclass(frozen=True, slots=True)
class UldRule:
    """A target's subtraction. `weight` is the paper's alpha, `rate` the filter's r."""

    assistant: str
    weight: float
    rate: float


Rules = tuple[UldRule | None, ...]


def rules_of(targets: Sequence[ForgetTarget], digests: Mapping[str, str]) -> Rules:
    """The rules of a policy's targets, in their order.

    Raises:
        CompileError: a target names an assistant that is not registered.
    """
    found: list[UldRule | None] = []
    for target in targets:
        if target.uld is None:
            found.append(None)
        elif target.uld.assistant not in digests:
            raise CompileError(f"target {target.id} names an assistant that is not registered")
        else:
            digest = digests[target.uld.assistant]
            found.append(UldRule(digest, target.uld.weight, target.uld.rate))
    return tuple(found)


def rules_document(rules: Rules) -> list[dict[str, Any] | None]:
    """The JSON of a snapshot's `uld` document."""
    return [None if rule is None else asdict(rule) for rule in rules]


def read_rules(document: Sequence[Mapping[str, Any] | None]) -> Rules:
    """Read `rules_document`."""
    return tuple(None if rule is None else UldRule(**rule) for rule in document)
