"""What the engine gets: the client's body as it came, or with the guard's parameters added."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from typing import Any

from guard.decision import Decision
from guard.params import GuardParams
from server.endpoints import Handling
from server.stream_form import StreamForm

_MAX_CHOICES = 4096


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


def untouched(kind: Handling, raw: bytes, body: dict[str, Any]) -> OutgoingRequest:
    """The client's own bytes."""
    options = _stream_options(body)
    form = StreamForm(
        chat=kind is Handling.CHAT,
        num_choices=num_choices(kind, body),
        usage_wanted=options.get("include_usage") is True,
        usage_in_chunks=options.get("continuous_usage_stats") is True,
    )
    return OutgoingRequest(raw, form)


def steer(kind: Handling, body: dict[str, Any], decision: Decision) -> OutgoingRequest:
    """Add the decision to a client's body."""
    nonce = secrets.randbelow(2**53 - 1) + 1
    params = GuardParams(decision.digest, nonce, decision.targets, decision.items)
    steered = {**body, "vllm_xargs": {**(body.get("vllm_xargs") or {}), **params.to_xargs()}}
    options = _stream_options(body)
    wanted = options.get("include_usage") is True
    if wanted:
        # If the shield ends the stream, the tokens used so far are known only from the chunks.
        steered["stream_options"] = {**options, "continuous_usage_stats": True}
    form = StreamForm(
        chat=kind is Handling.CHAT,
        num_choices=num_choices(kind, body),
        usage_wanted=wanted,
        usage_in_chunks=True,
        usage_added=wanted and not options.get("continuous_usage_stats"),
        structured=_is_structured(body),
    )
    return OutgoingRequest(json.dumps(steered).encode(), form, nonce)


def num_choices(kind: Handling, body: dict[str, Any]) -> int:
    """How many choices a valid request gets; 1 where `n` is not a sensible number."""
    n = body.get("n")
    each = n if type(n) is int and 0 < n <= _MAX_CHOICES else 1
    prompt = body.get("prompt")
    if kind is Handling.CHAT or not isinstance(prompt, list) or not prompt:
        return each
    return each if type(prompt[0]) is int else each * len(prompt)


def _stream_options(body: dict[str, Any]) -> dict[str, Any]:
    options = body.get("stream_options")
    return options if isinstance(options, dict) else {}


def _is_structured(body: dict[str, Any]) -> bool:
    response_format = body.get("response_format")
    plain = response_format is None or (
        isinstance(response_format, dict) and response_format.get("type") == "text"
    )
    forced_tool = body.get("tool_choice") not in (None, "none", "auto")
    return not plain or body.get("structured_outputs") is not None or forced_tool
