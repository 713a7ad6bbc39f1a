"""The guard's verdict on one request, and why."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from detectors.detection import Detection
from guard.key_scope import ALL_TARGETS, KeyScope


class Verdict(StrEnum):
    """What happens to the request."""

    ALLOW = "allow"
    STEER = "steer"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Decision:
    """One verdict with everything that led to it.

    `targets` and `items` index the snapshot's target units and item units (see
    `guard.params`); both are empty unless the verdict is STEER. `detections` were enforced,
    `observed` belong to targets in observe mode and changed nothing. `scope` is that of the key
    that asked; where it only observes, `would` is what had been decided had it enforced. `refusing`
    are the detected targets, enforced or observed, of which each by itself asks for a refusal.
    """

    verdict: Verdict
    generation: int
    digest: str
    targets: tuple[int, ...] = ()
    items: tuple[int, ...] = ()
    detections: tuple[Detection, ...] = ()
    observed: tuple[Detection, ...] = ()
    scope: KeyScope = ALL_TARGETS
    would: Decision | None = None
    refusing: frozenset[str] = frozenset()

    @property
    def steers_for_targets(self) -> bool:
        """Whether the request is steered for a target, not only for the veto of corpora."""
        about = self.targets or self.items or self.detections
        return self.verdict is Verdict.STEER and bool(about)
