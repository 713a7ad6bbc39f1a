"""A streamed Anthropic message behind the shield: what is caught stops it for `refusal`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from server.apis.cuts import allowed
from server.apis.message_refusal import STOP_REASON, end_of_message
from server.apis.message_surfaces import Said, block_delta, delta_of, finish_block
from server.apis.ordered_stream import Event, Held, OrderedStream
from server.choice_shield import ShieldPolicy
from server.shielded_events import FAILED, RecordBlock
from server.sse import encode_named_event
from server.stream_form import StreamForm

_DELTA_KEYS = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "input_json_delta": "partial_json",
}


class MessageStream(OrderedStream):
    """Shield of one streamed message."""

    def __init__(self, policy: ShieldPolicy, form: StreamForm, record_block: RecordBlock) -> None:
        super().__init__(policy, form, record_block)
        self._usage: dict[str, Any] = {"input_tokens": 0, "output_tokens": 0}
        self._started = False
        self._open: int | None = None
        self._said = Said()
        self._finished = False

    def _judge(self, raw: bytes, event: Event) -> Held:
        spans = self._shield.feed(self._choice(event))
        if event["type"] == "content_block_stop":
            finish_block(self._shield, event["index"])
        if event["type"] == "message_delta" and self._policy.closed() is not None:
            event["delta"] = {"stop_reason": STOP_REASON, "stop_sequence": None}
            raw = encode_named_event(event)
        return Held(raw, event, spans)

    def _choice(self, event: Event) -> dict[str, Any]:
        """An event as a delta of a choice.

        Raises:
            ValueError: its kind is unknown, or it is out of place.
        """
        kind = event["type"]
        if kind == "content_block_start":
            return {"delta": block_delta(event["index"], event["content_block"])}
        if kind == "content_block_delta":
            return {"delta": delta_of(event["index"], event["delta"])}
        if kind == "message_delta":
            self._finished = True
            return {"finish_reason": "end", "stop_reason": event["delta"].get("stop_sequence")}
        if kind == "message_start" and event["message"]["content"]:
            raise ValueError("a message that begins with content")
        if kind == "message_stop" and not self._finished:
            raise ValueError("a message without a reason for its end")
        if kind not in ("message_start", "message_stop", "content_block_stop", "ping"):
            raise ValueError("unknown kind of event")
        return {"delta": {}}

    def _note(self, event: Event) -> None:
        holder = event.get("message") if event["type"] == "message_start" else event
        usage = holder.get("usage") if isinstance(holder, dict) else None
        if isinstance(usage, dict):
            self._usage = usage

    def _sent(self, held: Held) -> bytes:
        event = held.event
        if event["type"] == "message_start":
            self._started = True
        elif event["type"] == "content_block_start":
            self._open = event["index"]
            self._said.begin()
        elif event["type"] == "content_block_delta":
            key = _DELTA_KEYS.get(event["delta"]["type"], "")
            self._said.add(key, event["delta"].get(key, ""))
        elif event["type"] == "content_block_stop":
            self._open = None
        self.ended = event["type"] == "message_stop"
        return held.raw

    def _cut(self, first: Event) -> Iterator[bytes]:
        """The last delta: what is allowed of the held ones of the block that goes on here."""
        if not self._is_delta(first):
            return
        key, kept = _DELTA_KEYS[first["delta"]["type"]], ""
        for held in self._held:
            text = held.event.get("delta", {}).get(key)
            if held.event.get("index") != first["index"] or text is None:
                break
            kept += (more := allowed(self._shield, held.spans, text))
            if len(more) < len(text):
                break
        if kept := self._said.last(self._policy, key, kept):
            yield encode_named_event({**first, "delta": {**first["delta"], key: kept}})

    def _close_open(self) -> Iterator[bytes]:
        if self._open is not None:
            yield encode_named_event({"type": "content_block_stop", "index": self._open})
            self._open = None

    def _is_delta(self, event: Event) -> bool:
        return event["type"] == "content_block_delta" and event["delta"]["type"] in _DELTA_KEYS

    def _is_last(self, event: Event) -> bool:
        return event["type"] in ("message_delta", "message_stop")

    def _end(self) -> Iterator[bytes]:
        if not self._started:
            yield self._error(FAILED)
            return
        yield from self._close_open()
        yield from end_of_message(self._usage)

    def _error(self, message: str) -> bytes:
        error = {"type": "api_error", "message": message}
        return encode_named_event({"type": "error", "error": error})
