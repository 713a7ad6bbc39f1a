"""`POST /v1/checks`: what the guard decides about a text, with its reasons; nothing is generated.

For admins and auditors: a client that could ask would learn which prompts are about a target.
"""

from __future__ import annotations

from typing import Any

from detectors.detection import Detection, Strength
from guard.decision import Decision, Verdict
from server.apis.api import Api
from server.apis.table import APIS
from server.auth import Caller, Role
from server.endpoints import ENDPOINTS, Handling
from server.errors import Forbidden, InvalidRequest

_FIELDS = frozenset({"text", "messages", "request"})
_REQUEST_FIELDS = {"path", "body"}
# What it names is in the response store of the key that made it.
_ELSEWHERE = "previous_response_id"


def require_auditor(caller: Caller) -> None:
    """Refuse clients.

    Raises:
        Forbidden: the key is neither an admin's nor an auditor's.
    """
    if caller.role < Role.AUDITOR:
        raise Forbidden("Checks are for admin and auditor keys.")


def checked_request(body: dict[str, Any]) -> tuple[Api, dict[str, Any]]:
    """What is to be checked: an API and a body of a request to it.

    `request` is any guarded request as a client sends it, by path and body; `messages` are those of
    a chat, and `text` is one user's message.

    Raises:
        InvalidRequest: it is not exactly one of them, or a request that no decision is made about.
    """
    other = next((name for name in body if name not in _FIELDS), None)
    if other is not None or len(body) != 1:
        raise InvalidRequest("A check takes text, messages or a request, and nothing else.")
    if "request" in body:
        return _request(body["request"])
    chat = APIS[Handling.CHAT]
    if "messages" in body:
        return chat, body
    if not isinstance(body["text"], str):
        raise InvalidRequest("text must be a string.", param="text")
    return chat, {"messages": [{"role": "user", "content": body["text"]}]}


def _request(request: Any) -> tuple[Api, dict[str, Any]]:
    if not isinstance(request, dict) or request.keys() != _REQUEST_FIELDS:
        raise InvalidRequest("request must be an object of path and body.", param="request")
    path, body = request["path"], request["body"]
    endpoint = ENDPOINTS.get(path) if isinstance(path, str) else None
    api = None if endpoint is None else APIS.get(endpoint.handling)
    if api is None:
        raise InvalidRequest("request.path must be a guarded path.", param="request.path")
    if not isinstance(body, dict):
        raise InvalidRequest("request.body must be an object.", param="request.body")
    if body.get(_ELSEWHERE) is not None:
        raise InvalidRequest(
            "A check does not read stored responses: give earlier turns as input.",
            param=f"request.body.{_ELSEWHERE}",
        )
    return api, body


def check_result(decision: Decision) -> dict[str, Any]:
    """A decision with its reasons: ids and numbers.

    `would` is what had been decided if the key enforced, where it only observes. `items` are the
    numbers of the target's examples that were near. `active` says whose phrases are forbidden in
    the answer: those of whole targets, and of items.
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
        "active": _active(decision),
    }


def _active(decision: Decision) -> list[dict[str, Any]]:
    """What the decision switched on, by target; nothing in an answer that is refused."""
    if decision.verdict is not Verdict.STEER:
        return []
    on: dict[str, tuple[bool, set[int]]] = {}
    for found in decision.detections:
        whole, items = on.get(found.target_id, (False, set()))
        whole |= found.strength is Strength.STRONG
        on[found.target_id] = (whole, items.union(found.items))
    return [{"target": t, "whole": w, "items": sorted(i)} for t, (w, i) in on.items()]


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
