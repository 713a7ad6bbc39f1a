"""The numbers that are kept of each target, and of all requests together."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

Numbers = Mapping[str, float]
# JSON's readers agree on whole numbers up to here.
MOST = 2**53


@dataclass(slots=True)
class _Sum:
    """Numbers that are added up; moments, whose names end in `_at`, keep the latest."""

    def add(self, other: Self) -> None:
        """Add another's numbers to these."""
        for field in fields(self):
            mine, more = getattr(self, field.name), getattr(other, field.name)
            latest = field.name.endswith("_at")
            setattr(self, field.name, max(mine, more) if latest else mine + more)

    def raise_to(self, other: Self) -> None:
        """Take what is greater of another's: a later state of the same counters, or an earlier."""
        for field in fields(self):
            setattr(self, field.name, max(getattr(self, field.name), getattr(other, field.name)))

    def to_numbers(self) -> dict[str, float]:
        """By name, without zeros."""
        return {name: value for name, value in asdict(self).items() if value}

    @classmethod
    def of(cls, numbers: Numbers) -> Self:
        """From numbers by name; unknown ones, of a newer Lethegate, are left out.

        Whoever told or stored them: counters are made whole, all are from 0 to `MOST`, and no
        moment is later than now.

        Raises:
            TypeError: one is not a number.
        """
        known = _is_whole(cls)
        return cls(**{n: _sound(n, v, known[n]) for n, v in numbers.items() if n in known})

    @classmethod
    def checked(cls, numbers: Numbers) -> Numbers:
        """These numbers, if those of counters are whole.

        Raises:
            ValueError: one is not.
        """
        for name, whole in _is_whole(cls).items():
            if whole and numbers.get(name, 0) != int(numbers.get(name, 0)):
                raise ValueError("a counter is not a whole number")
        return numbers


@dataclass(slots=True)
class TargetCounts(_Sum):
    """One target's.

    Attributes:
        matched: prompts in which it was detected, enforced or observed.
        alias, similarity, always: of those, what found it; a prompt may count in several.
        refused: prompts refused because of it.
        steered: prompts whose answer was steered away from it.
        would_refuse, would_steer: the same, had the target and the key not been in observe mode.
        cut_phrase, cut_name, cut_provenance: answers ended for what is its own.
        would_cut: answers that would have been ended.
        prevented_steps: decode steps of answers steered away from it in which a phrase that had
            begun could not be completed; told by the V1 runner.
        screen_seconds, shield_seconds: time added to requests in which it was detected, divided
            by the number of targets detected with it.
        last_matched_at: when it was last detected, in seconds since the epoch; 0 for never.
    """

    matched: int = 0
    alias: int = 0
    similarity: int = 0
    always: int = 0
    refused: int = 0
    steered: int = 0
    would_refuse: int = 0
    would_steer: int = 0
    cut_phrase: int = 0
    cut_name: int = 0
    cut_provenance: int = 0
    would_cut: int = 0
    prevented_steps: int = 0
    screen_seconds: float = 0.0
    shield_seconds: float = 0.0
    last_matched_at: float = 0.0

    @property
    def cut(self) -> int:
        """Answers ended for it."""
        return self.cut_phrase + self.cut_name + self.cut_provenance

    @property
    def seconds(self) -> float:
        """Time that the guard spent on it."""
        return self.screen_seconds + self.shield_seconds


@dataclass(slots=True)
class RequestCounts(_Sum):
    """Of all requests that were decided about: how many, and the time added to them."""

    requests: int = 0
    screen_seconds: float = 0.0
    shield_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        """Time that the guard spent on all."""
        return self.screen_seconds + self.shield_seconds


def _is_whole(kind: type[Any]) -> dict[str, bool]:
    """Of the names of a kind's numbers, whether they count or are seconds."""
    return {field.name: isinstance(field.default, int) for field in fields(kind)}


def _sound(name: str, value: float, whole: bool) -> float:
    most = min(MOST, time.time()) if name.endswith("_at") else MOST
    # Not a number is less than nothing here, too.
    bounded = min(value, most) if value >= 0 else 0
    return int(bounded) if whole else bounded
