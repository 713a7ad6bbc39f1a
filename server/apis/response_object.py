"""Responses that the engine did not write: a refusal, and one that is still in the making."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from server.apis.response_output import ShownOutput
from server.apis.response_stream import FILTERED, INCOMPLETE
from server.refusals import asked_model
from server.sse import encode_named_event

# What a response repeats of its request, and what it says where that says nothing.
_REPEATED: dict[str, Any] = {
    "instructions": None,
    "metadata": None,
    "parallel_tool_calls": True,
    "temperature": 1.0,
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
    "background": False,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "previous_response_id": None,
    "prompt": None,
    "reasoning": None,
    "service_tier": "auto",
    "text": None,
    "top_logprobs": None,
    "truncation": "disabled",
    "user": None,
}
_NO_USAGE: dict[str, Any] = {
    "input_tokens": 0,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": 0,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 0,
}


def response_id(body: dict[str, Any]) -> str:
    """The id of a response as the engine would choose it."""
    given = body.get("request_id")
    return given if isinstance(given, str) and given else f"resp_{uuid.uuid4().hex}"


def response_object(body: dict[str, Any], id_: str, model: str, status: str) -> dict[str, Any]:
    """A response to a request's body, without output."""
    given = {key: body[key] for key in _REPEATED if body.get(key) is not None}
    return {
        "id": id_,
        "created_at": int(time.time()),
        "incomplete_details": None,
        "model": asked_model(body, model),
        "object": "response",
        "output": [],
        "status": status,
        **_REPEATED,
        **given,
        # Behind what the client wrote, which might say the same (`server.keys.meter`).
        "usage": None,
    }


@dataclass(frozen=True, slots=True)
class ResponseRefusal:
    """A refusal of one request: the response in the making, and what is said."""

    response: dict[str, Any]
    text: str

    def completion(self) -> dict[str, Any]:
        """The whole response."""
        for event in self._events():
            last = event
        return dict(last["response"])

    def events(self) -> Iterator[bytes]:
        """The response as a stream."""
        for number, event in enumerate(self._events()):
            yield encode_named_event({**event, "sequence_number": number})

    def _events(self) -> Iterator[dict[str, Any]]:
        item_id, shown = f"msg_{uuid.uuid4().hex}", ShownOutput()
        item = {"id": item_id, "type": "message", "role": "assistant"}
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        place = {"item_id": item_id, "output_index": 0, "content_index": 0}
        said = {"type": "response.output_text.delta", **place, "delta": self.text, "logprobs": []}
        yield {"type": "response.created", "response": self.response}
        yield {"type": "response.in_progress", "response": self.response}
        for event in (
            {
                "type": "response.output_item.added",
                "output_index": 0,
                "item": {**item, "status": "in_progress", "content": []},
            },
            {"type": "response.content_part.added", **place, "part": part},
            said,
        ):
            shown.take(event)
            yield event
        yield from shown.close()
        final = {**self.response, "output": shown.items, "usage": _NO_USAGE, **FILTERED}
        yield {"type": INCOMPLETE, "response": final}
