"""`POST /v1/checks`: what the guard decides about a text, with its reasons; nothing is generated.

For admins and auditors: a client that could ask would learn which prompts are about a target.
"""

from __future__ import annotations

from typing import Any

from detectors.detection import Detection
from guard.decision import Decision
from server.auth import Caller, Role
from server.errors import Forbidden, InvalidRequest

_FIELDS = frozenset({"text", "messages"})


def require_auditor(caller: Caller) -> None:
    """Refuse clients.

    Raises:
        Forbidden: the key is neither an admin's nor an auditor's.
    """
    if caller.role < Role.AUDITOR:
        raise Forbidden("Checks are for admin and auditor keys.")


def conversation_of(body: dict[str, Any]) -> dict[str, Any]:
    """What is to be checked, as the body of a chat: `text` is one user's message.

    Raises:
        InvalidRequest: it is not exactly one of `text` and `messages`.
    """
    other = next((name for name in body if name not in _FIELDS), None)
    if other is not None or len(body) != 1:
        raise InvalidRequest("A check takes either text or messages, and nothing else.")
    if "messages" in body:
        return body
    if not isinstance(body["text"], str):
        raise InvalidRequest("text must be a string.", param="text")
    return {"messages": [{"role": "user", "content": body["text"]}]}


def check_result(decision: Decision) -> dict[str, Any]:
    """A decision with its reasons: ids and numbers.

    `would` is what had been decided if the key enforced, where it only observes. `items` are the
    numbers of the target's examples that were near.
    """
    judged = decision.would or decision
    enforced = [_reason(d, enforced=decision.would is None) for d in judged.detections]
    observed = [_reason(d, enforced=False) for d in judged.observed]
    return {
        "object": "check",
        "verdict": decision.verdict.value,
        "would": None if decision.would is None else judged.verdict.value,
        "generation": decision.generation,
        "digest": decision.digest,
        "detections": enforced + observed,
    }


def _reason(detection: Detection, *, enforced: bool) -> dict[str, Any]:
    return {
        "target": detection.target_id,
        "layer": detection.layer.value,
        "strength": detection.strength.value,
        "score": round(detection.score, 4),
        "threshold": round(detection.threshold, 4),
        "items": list(detection.items),
        "enforced": enforced,
    }
