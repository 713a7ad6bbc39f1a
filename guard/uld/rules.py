"""What a policy subtracts: per target unit an assistant by digest, its weight and its filter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from detectors.targets import ForgetTarget
from guard.errors import CompileError
from guard.params import MAX_WEIGHT, GuardParams


@dataclass(frozen=True, slots=True)
class UldRule:
    """A target's subtraction. `weight` is the paper's alpha, `rate` the filter's r."""

    assistant: str
    weight: float
    rate: float


@dataclass(frozen=True, slots=True)
class Registered:
    """A registered assistant, and how it is subtracted where a target does not say."""

    digest: str
    weight: float = 2.0
    rate: float = 0.01


# What a model says once stand-ins are taught is right at the weight that they were taught with,
# and may be any token.
WITH_STAND_INS = 1.0, 1.0

Rules = tuple[UldRule | None, ...]


@dataclass(frozen=True, slots=True)
class WeightLimits:
    """Between which weights the operator lets a key's own weight be."""

    least: float = 0.0
    most: float = MAX_WEIGHT


NO_LIMITS = WeightLimits()


def chosen_rules(rules: Rules, params: GuardParams, limits: WeightLimits) -> list[UldRule]:
    """The rules of a request's targets, with the weight and the filter of its key if it has any.

    Raises:
        IndexError: the policy has no such target.
    """
    found = [rules[unit] for unit in params.targets] if rules else []
    weight, rate = params.uld_weight, params.uld_rate
    if weight is not None:
        weight = min(max(weight, limits.least), limits.most)
    return [
        UldRule(
            rule.assistant,
            rule.weight if weight is None else weight,
            rule.rate if rate is None else rate,
        )
        for rule in found
        if rule is not None
    ]


def rules_of(targets: Sequence[ForgetTarget], assistants: Mapping[str, Registered]) -> Rules:
    """The rules of a policy's targets, in their order; the assistants are by name.

    Raises:
        CompileError: a target names an assistant that is not registered.
    """
    found: list[UldRule | None] = []
    for target in targets:
        uld = target.uld
        if uld is None:
            found.append(None)
            continue
        one = assistants.get(uld.assistant)
        if one is None:
            raise CompileError(f"target {target.id} names an assistant that is not registered")
        weight = one.weight if uld.weight is None else uld.weight
        found.append(UldRule(one.digest, weight, one.rate if uld.rate is None else uld.rate))
    return tuple(found)


def rules_document(rules: Rules) -> list[dict[str, Any] | None]:
    """The JSON of a snapshot's `uld` document."""
    return [None if rule is None else asdict(rule) for rule in rules]


def read_rules(document: Sequence[Mapping[str, Any] | None]) -> Rules:
    """Read `rules_document`."""
    return tuple(None if rule is None else UldRule(**rule) for rule in document)
