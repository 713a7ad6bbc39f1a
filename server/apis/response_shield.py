"""A whole response behind the shield: it is judged as the stream that would have brought it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from guard.ledger import CloseReason
from server.apis.response_stream import COMPLETED, ResponseStream
from server.apis.response_surfaces import Event
from server.choice_shield import ShieldPolicy
from server.reply import Reply, unavailable
from server.shielded_events import RecordBlock
from server.sse import EventSplitter, encode_json, encode_named_event, event_data
from server.stream_form import StreamForm

_FORM = StreamForm(chat=True, num_choices=1)
_PART_DELTAS = {
    "message": "response.output_text.delta",
    "reasoning": "response.reasoning_text.delta",
}
_CALL_DELTAS = {
    "function_call": ("response.function_call_arguments.delta", "arguments"),
    "custom_tool_call": ("response.custom_tool_call_input.delta", "input"),
}


def shield_response(policy: ShieldPolicy, body: bytes, record_block: RecordBlock) -> Reply:
    """Shield a completed (200) response; unchanged bytes if there is nothing to hide.

    Raises:
        ValueError: it holds something that cannot be judged.
    """
    closed = policy.closed()
    if closed is not None and closed is not CloseReason.NOTHING_LEFT:
        return unavailable()
    stream = ResponseStream(policy, _FORM, record_block)
    events = _events(json.loads(body))
    encoded = [
        encode_named_event({**event, "sequence_number": number})
        for number, event in enumerate(events)
    ]
    out = b"".join(map(stream.feed, encoded))
    if out == b"".join(encoded):
        return Reply(200, body)
    [*_, last] = EventSplitter().feed(out)
    return Reply(200, encode_json(json.loads(event_data(last) or b"")["response"]))


def _events(response: dict[str, Any]) -> Iterator[Event]:
    """A response as a stream: every text in one delta."""
    yield {"type": "response.created", "response": {**response, "output": []}}
    for index, item in enumerate(response["output"]):
        yield from _item_events(index, item)
    yield {"type": COMPLETED, "response": response}


def _item_events(index: int, item: dict[str, Any]) -> Iterator[Event]:
    kind = item["type"]
    place = {"item_id": item["id"], "output_index": index}
    if kind in _CALL_DELTAS:
        delta, field = _CALL_DELTAS[kind]
        yield _item_event("added", index, {**item, field: ""})
        yield {"type": delta, **place, "delta": item[field]}
    elif kind in _PART_DELTAS:
        yield _item_event("added", index, {**item, "content": []})
        for number, part in enumerate(item.get("content") or ()):
            tokens = part.get("logprobs") or []
            empty = {**part, "text": "", "logprobs": []}
            at = {**place, "content_index": number}
            yield {"type": "response.content_part.added", **at, "part": empty}
            yield {"type": _PART_DELTAS[kind], **at, "delta": part["text"], "logprobs": tokens}
    else:
        raise ValueError("unknown kind of item")
    yield _item_event("done", index, item)


def _item_event(change: str, index: int, item: dict[str, Any]) -> Event:
    return {"type": f"response.output_item.{change}", "output_index": index, "item": item}
