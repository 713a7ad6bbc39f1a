"""Streams of an answer as an engine sends them, what may become of them, and what they say."""

from __future__ import annotations

import json
from typing import Any

from server.endpoints import Handling
from server.sse import DONE, EventSplitter, encode_event, encode_named_event, event_data


def _chat_stream(tokens: list[str]) -> list[bytes]:
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    choices = [{"index": 0, "delta": {"content": t}, "finish_reason": None} for t in tokens]
    choices.append({"index": 0, "delta": {}, "finish_reason": "stop"})
    return [*(encode_event({**head, "choices": [choice]}) for choice in choices), DONE]


def _text_stream(tokens: list[str]) -> list[bytes]:
    head = {"id": "c", "object": "text_completion", "created": 1, "model": "m"}
    choices = [{"index": 0, "text": t, "finish_reason": None} for t in tokens]
    choices.append({"index": 0, "text": "", "finish_reason": "stop"})
    return [*(encode_event({**head, "choices": [choice]}) for choice in choices), DONE]


def _message_stream(tokens: list[str]) -> list[bytes]:
    usage = {"input_tokens": 1, "output_tokens": 1}
    message = {"id": "m", "type": "message", "role": "assistant", "content": [], "model": "m"}
    block = {"type": "text", "text": ""}
    deltas = [{"type": "text_delta", "text": token} for token in tokens]
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**message, "usage": usage}},
        {"type": "content_block_start", "index": 0, "content_block": block},
        *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage},
        {"type": "message_stop"},
    ]
    return list(map(encode_named_event, events))


def _response_stream(tokens: list[str]) -> list[bytes]:
    head = {"id": "r", "object": "response", "model": "m", "output": [], "status": "in_progress"}
    part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    item = {"id": "i", "type": "message", "role": "assistant", "status": "completed"}
    whole = {**item, "content": [{**part, "text": "".join(tokens)}]}
    at = {"item_id": "i", "output_index": 0, "content_index": 0}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": head},
        {"type": "response.output_item.added", "output_index": 0, "item": {**item, "content": []}},
        {"type": "response.content_part.added", **at, "part": part},
        *({"type": "response.output_text.delta", **at, "delta": t} for t in tokens),
        {"type": "response.output_item.done", "output_index": 0, "item": whole},
        {"type": "response.completed", "response": {**head, "output": [whole], "usage": None}},
    ]
    return [encode_named_event({**e, "sequence_number": n}) for n, e in enumerate(events)]


STREAMS = {
    Handling.CHAT: _chat_stream,
    Handling.COMPLETIONS: _text_stream,
    Handling.MESSAGES: _message_stream,
    Handling.RESPONSES: _response_stream,
}


HARMS = ("drop", "double", "swap", "cut", "bytes", "comment")


def harmed(events: list[bytes], harms: list[tuple[str, int, bytes]]) -> bytes:
    """The bytes of a stream after harms: a kind, a place, and bytes that come in there."""
    for kind, place, junk in harms:
        at = place % max(1, len(events))
        event = events[at] if events else b""
        if kind == "double":
            events = [*events[:at], event, *events[at:]]
        elif kind == "swap":
            events = [
                *events[: max(0, at - 1)],
                event,
                *events[max(0, at - 1) : at],
                *events[at + 1 :],
            ]
        else:
            new = {"drop": b"", "comment": b": x\n\n" + event, "bytes": junk + event}
            cut = event[: place % max(1, len(event))]
            events = [*events[:at], new.get(kind, cut), *events[at + 1 :]]
    return b"".join(events)


def said(out: bytes) -> str:
    """What a client reads of a stream: the deltas, in order."""
    said = ""
    for event in EventSplitter().feed(out):
        data = event_data(event)
        try:
            payload = json.loads(data or b"null")
        except ValueError:
            continue
        if not isinstance(payload, dict):
            continue
        for choice in payload.get("choices") or ():
            said += (choice.get("delta") or {}).get("content") or choice.get("text") or ""
        delta = payload.get("delta")
        said += delta if isinstance(delta, str) else (delta or {}).get("text") or ""
    return said
