"""What the engine gets: the client's body as it came, or with the guard's parameters added."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from typing import Any

from guard.decision import Decision
from guard.params import GuardParams
from server.apis.api import Api
from server.stream_form import StreamForm


@dataclass(frozen=True, slots=True)
class OutgoingRequest:
    """A request on its way to the engine, whose answer will be shielded.

    Attributes:
        body: what the engine gets.
        form: what its answer looks like.
        nonce: how the worker's facts about it are found; None where it carries nothing of ours.
    """

    body: bytes
    form: StreamForm
    nonce: int | None = None


def untouched(api: Api, raw: bytes, body: dict[str, Any]) -> OutgoingRequest:
    """The client's own bytes."""
    return OutgoingRequest(raw, api.form(body))


def steer(api: Api, body: dict[str, Any], decision: Decision) -> OutgoingRequest:
    """Add the decision to a client's body."""
    nonce = secrets.randbelow(2**53 - 1) + 1
    params = GuardParams(
        decision.digest,
        nonce,
        decision.targets,
        decision.items,
        decision.scope.uld_weight,
        decision.scope.uld_rate,
    )
    steered, form = api.steered(body)
    xargs = {**(body.get("vllm_xargs") or {}), **params.to_xargs()}
    return OutgoingRequest(json.dumps({**steered, "vllm_xargs": xargs}).encode(), form, nonce)
