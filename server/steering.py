"""The body of a steered request: the client's, with the guard's parameters added."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from typing import Any

from guard.decision import Decision
from guard.params import GuardParams
from server.endpoints import Handling

_MAX_CHOICES = 4096


@dataclass(frozen=True, slots=True)
class SteeredRequest:
    """A request on its way to the engine.

    Attributes:
        body: what the engine gets.
        nonce: how the worker's facts about it are found.
        num_choices: how many choices the response will have.
        usage_wanted: the client asked for a final usage chunk.
        usage_added: per-chunk usage was switched on by us, and has to be taken out again.
        structured: the output is bound by a grammar.
    """

    body: bytes
    nonce: int
    num_choices: int
    usage_wanted: bool
    usage_added: bool
    structured: bool


def steer(kind: Handling, body: dict[str, Any], decision: Decision) -> SteeredRequest:
    """Add the decision to a client's body."""
    nonce = secrets.randbelow(2**53 - 1) + 1
    params = GuardParams(decision.digest, nonce, decision.targets, decision.items)
    steered = {**body, "vllm_xargs": {**(body.get("vllm_xargs") or {}), **params.to_xargs()}}
    wanted, added = False, False
    options = body.get("stream_options")
    if isinstance(options, dict) and options.get("include_usage") is True:
        wanted = True
        added = not options.get("continuous_usage_stats")
        # If the shield ends the stream, the tokens used so far are known only from the chunks.
        steered["stream_options"] = {**options, "continuous_usage_stats": True}
    return SteeredRequest(
        body=json.dumps(steered).encode(),
        nonce=nonce,
        num_choices=num_choices(kind, body),
        usage_wanted=wanted,
        usage_added=added,
        structured=_is_structured(body),
    )


def num_choices(kind: Handling, body: dict[str, Any]) -> int:
    """How many choices a valid request gets; 1 where `n` is not a sensible number."""
    n = body.get("n")
    each = n if type(n) is int and 0 < n <= _MAX_CHOICES else 1
    prompt = body.get("prompt")
    if kind is Handling.CHAT or not isinstance(prompt, list) or not prompt:
        return each
    return each if type(prompt[0]) is int else each * len(prompt)


def _is_structured(body: dict[str, Any]) -> bool:
    response_format = body.get("response_format")
    plain = response_format is None or (
        isinstance(response_format, dict) and response_format.get("type") == "text"
    )
    forced_tool = body.get("tool_choice") not in (None, "none", "auto")
    return not plain or body.get("structured_outputs") is not None or forced_tool
