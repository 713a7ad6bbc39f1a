"""What is recorded of a decision and of a block: ids, numbers and closed words."""

from __future__ import annotations

from typing import Any

from guard.decision import Decision, Verdict
from guard.nets import Catch
from server.audit.writer import Recorder
from server.provenance.audit import recorded_id

# A conversation may be about many targets; the others are counted.
_MOST_DETECTIONS = 32


class RequestAudit:
    """Records what happens to one request."""

    def __init__(self, recorder: Recorder, key_id: str, request_id: str | None, path: str) -> None:
        self._recorder = recorder
        self._about = {"key": key_id, "request_id": recorded_id(request_id or ""), "endpoint": path}
        self._policy: dict[str, Any] = {}

    def decided(self, decision: Decision) -> None:
        """Record a decision, unless nothing was found."""
        self._policy = {"generation": decision.generation, "digest": decision.digest}
        judged = decision.would or decision
        if decision.verdict is Verdict.ALLOW and not decision.observed:
            return
        seen = [(d, decision.would is None) for d in judged.detections]
        seen += [(d, False) for d in judged.observed]
        self._recorder.record(
            "decision",
            **self._about,
            verdict=decision.verdict.value,
            would=None if decision.would is None else judged.verdict.value,
            **self._policy,
            count=len(seen),
            detections=[
                {
                    "target": detection.target_id,
                    "layer": detection.layer.value,
                    "strength": detection.strength.value,
                    "score": round(detection.score, 4),
                    "threshold": round(detection.threshold, 4),
                    "items": len(detection.items),
                    "enforced": enforced,
                }
                for detection, enforced in seen[:_MOST_DETECTIONS]
            ],
        )

    def blocked(self, surface: str, caught: Catch | None, *, enforced: bool) -> None:
        """Record that an answer was cut, or would have been."""
        self._recorder.record(
            "block",
            **self._about,
            surface=surface,
            layer=None if caught is None else caught.value,
            enforced=enforced,
            **self._policy,
        )
