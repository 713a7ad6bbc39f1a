"""What a detector found: evidence, with the numbers that justify it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Layer(StrEnum):
    """Which detector spoke (a closed set: metric labels are made of it)."""

    ALIAS = "alias"
    SIMILARITY = "similarity"
    ALWAYS = "always"


class Strength(StrEnum):
    """FAINT forbids what is telling in the matched items' answers, WEAK all their answer phrases,
    STRONG the whole target.
    """

    FAINT = "faint"
    WEAK = "weak"
    STRONG = "strong"


@dataclass(frozen=True, slots=True)
class Detection:
    """One target matched by one detector.

    `score` is on the detector's own scale and fired because `score >= threshold`.
    `items` are indices into the target's `examples`, nearest first.
    """

    target_id: str
    layer: Layer
    strength: Strength
    score: float
    threshold: float
    items: tuple[int, ...] = ()
