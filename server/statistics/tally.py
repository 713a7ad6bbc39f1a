"""What one gateway has counted, of each target and of all requests, since it started.

Shared by the event loop and the threads that read answers; every call is some dictionary look-ups
under one lock.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock

from detectors.detection import Detection
from guard.decision import Decision, Verdict
from guard.nets import Catch
from server.statistics.counts import RequestCounts, TargetCounts


@dataclass(slots=True)
class Tallied:
    """A copy of the numbers at one moment."""

    requests: RequestCounts = field(default_factory=RequestCounts)
    targets: dict[str, TargetCounts] = field(default_factory=dict)

    def add(self, other: Tallied) -> None:
        """Add another's numbers to these."""
        self.requests.add(other.requests)
        for target, counts in other.targets.items():
            self.targets.setdefault(target, TargetCounts()).add(counts)


class TargetTally:
    """The counters of one process; `changes` grows with every change."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._requests = RequestCounts()
        self._targets: dict[str, TargetCounts] = {}
        self.changes = 0

    def decided(self, decision: Decision, seconds: float) -> None:
        """Count a request that was decided about, which took so long."""
        found = _by_target((*decision.detections, *decision.observed))
        enforced = {detection.target_id for detection in decision.detections}
        now = time.time()
        with self._lock:
            self.changes += 1
            self._requests.requests += 1
            self._requests.screen_seconds += seconds
            for target, detections in found.items():
                counts = self._of(target)
                counts.matched += 1
                counts.last_matched_at = now
                counts.screen_seconds += seconds / len(found)
                for layer in {detection.layer.value for detection in detections}:
                    setattr(counts, layer, getattr(counts, layer) + 1)
                _count_effect(counts, decision, target, is_enforced=target in enforced)

    def shielded(self, decision: Decision, seconds: float, prevented_steps: int = 0) -> None:
        """Count the time that looking through an answer took, and what the worker prevented."""
        found = _by_target((*decision.detections, *decision.observed))
        with self._lock:
            self.changes += 1
            self._requests.shield_seconds += seconds
            for target in found:
                counts = self._of(target)
                counts.shield_seconds += seconds / len(found)
                counts.prevented_steps += prevented_steps

    def cut(self, targets: Iterable[str], catch: Catch, *, enforced: bool) -> None:
        """Count an answer that was ended for what is these targets', or would have been."""
        with self._lock:
            self.changes += 1
            for target in targets:
                counts = self._of(target)
                if not enforced:
                    counts.would_cut += 1
                elif catch is Catch.NAME:
                    counts.cut_name += 1
                elif catch is Catch.PROVENANCE:
                    counts.cut_provenance += 1
                else:
                    counts.cut_phrase += 1

    def keep(self, targets: Collection[str]) -> None:
        """Drop the counters of all other targets: they are withdrawn."""
        with self._lock:
            self.changes += 1
            self._targets = {t: counts for t, counts in self._targets.items() if t in targets}

    def now(self) -> Tallied:
        """A copy of all counters."""
        with self._lock:
            targets = {target: replace(counts) for target, counts in self._targets.items()}
            return Tallied(replace(self._requests), targets)

    def _of(self, target: str) -> TargetCounts:
        return self._targets.setdefault(target, TargetCounts())


class AnswerCuts:
    """Counts what ends one answer: each target and kind once, however many surfaces show it."""

    def __init__(self, tally: TargetTally, *, enforced: bool) -> None:
        self._tally, self._enforced = tally, enforced
        self._seen: set[tuple[str, Catch]] = set()

    def __call__(self, catch: Catch, targets: Sequence[str]) -> None:
        """Take what was caught, and whose it is."""
        fresh = [target for target in dict.fromkeys(targets) if (target, catch) not in self._seen]
        self._seen.update((target, catch) for target in fresh)
        if fresh:
            self._tally.cut(fresh, catch, enforced=self._enforced)


def _count_effect(
    counts: TargetCounts, decision: Decision, target: str, *, is_enforced: bool
) -> None:
    """What followed for this target, of all that were detected with it."""
    if not is_enforced:
        if target in decision.refusing:
            counts.would_refuse += 1
        else:
            counts.would_steer += 1
    elif decision.verdict is Verdict.STEER:
        counts.steered += 1
    elif target in decision.refusing:
        counts.refused += 1


def _by_target(detections: Iterable[Detection]) -> dict[str, list[Detection]]:
    found: dict[str, list[Detection]] = {}
    for detection in detections:
        found.setdefault(detection.target_id, []).append(detection)
    return found
