"""A streamed Anthropic message behind the shield.

Events go out unchanged and in order, as soon as all text in them is clear. When something is caught
the held ones are shown up to it, the open block is closed, and the message stops for `refusal`. Its
usage is known only from the engine's last event, which is waited for. An event of an unknown kind
cannot be judged and raises.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from server.apis.message_refusal import STOP_REASON, end_of_message
from server.apis.message_surfaces import Said, allowed, block_delta, delta_of, finish_block
from server.choice_shield import ChoiceShield, ShieldPolicy, Span
from server.sse import EventSplitter, encode_named_event, event_data
from server.stream_form import StreamForm
from server.stream_shield import FAILED, RecordBlock
from server.surfaces import metric_label

_DELTA_KEYS = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "input_json_delta": "partial_json",
}


@dataclass(frozen=True, slots=True)
class _Held:
    raw: bytes
    event: dict[str, Any]
    spans: list[Span]


class MessageStream:
    """Shield of one streamed message; `ended` and `cut_short` as in `ShieldedStream`."""

    def __init__(self, policy: ShieldPolicy, form: StreamForm, record_block: RecordBlock) -> None:
        self._policy = policy
        self._form = form
        self._record_block = record_block
        self._splitter = EventSplitter()
        self._shield = ChoiceShield(policy, policy.prefixes.of(0))
        self._held: deque[_Held] = deque()
        self._usage: dict[str, Any] = {"input_tokens": 0, "output_tokens": 0}
        self._started = False
        self._open: int | None = None
        self._said = Said()
        self._finished = False
        self.ended = False
        self.cut_short = False

    def feed(self, data: bytes) -> bytes:
        """Take bytes from the engine; the bytes that may go to the client."""
        return b"".join(
            out
            for event in self._splitter.feed(data)
            if not self.ended
            for out in self._take(event)
        )

    def close(self) -> bytes:
        """The engine sends no more. An answer that has not ended ends here, with an error."""
        if self.ended:
            return b""
        out = b""
        if self._shield.blocked_at is None:
            self._shield.finish()
            out = b"".join(self._release())
        if self._shield.blocked_at is not None:
            return out + b"".join(self._end())
        self.ended = True
        return out + _error("The engine stopped before the end.")

    def abandon(self) -> bytes:
        """The shield itself failed: end the answer, showing nothing that is still held."""
        if self.ended:
            return b""
        self._record_block("other", None)
        self._held.clear()
        return b"".join(self._end())

    def _take(self, raw: bytes) -> Iterator[bytes]:
        data = event_data(raw)
        if data is None:
            return
        event = json.loads(data)
        kind = event["type"]
        if kind == "error":
            yield from self._take_error()
        elif self._shield.blocked_at is not None:
            self._note_usage(event)
            if kind in ("message_delta", "message_stop"):
                yield from self._end()
        else:
            yield from self._take_event(raw, event)

    def _take_event(self, raw: bytes, event: dict[str, Any]) -> Iterator[bytes]:
        self._note_usage(event)
        choice = self._choice(event)
        spans = self._shield.feed(choice)
        if event["type"] == "content_block_stop":
            finish_block(self._shield, event["index"])
        if event["type"] == "message_delta" and self._policy.closed() is not None:
            event["delta"] = {"stop_reason": STOP_REASON, "stop_sequence": None}
            raw = encode_named_event(event)
        self._held.append(_Held(raw, event, spans))
        yield from self._release()
        if self._shield.blocked_at is not None and event["type"] == "message_delta":
            yield from self._end()

    def _choice(self, event: dict[str, Any]) -> dict[str, Any]:
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

    def _note_usage(self, event: dict[str, Any]) -> None:
        holder = event.get("message") if event["type"] == "message_start" else event
        usage = holder.get("usage") if isinstance(holder, dict) else None
        if isinstance(usage, dict):
            self._usage = usage

    def _release(self) -> Iterator[bytes]:
        """The events that are clear; after a catch, also what is clear of the next one."""
        while self._held and all(map(self._shield.is_clear, self._held[0].spans)):
            if (
                self._shield.blocked_at is not None
                and self._held[0].event["type"] == "message_delta"
            ):
                break
            yield self._sent(self._held.popleft())
        if self._shield.blocked_at is None:
            return
        self._record_block(metric_label(self._shield.blocked_at), self._shield.caught)
        if self._held:
            yield from self._cut(self._held[0].event)
        self._held.clear()
        yield from self._close_block()

    def _sent(self, held: _Held) -> bytes:
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

    def _cut(self, first: dict[str, Any]) -> Iterator[bytes]:
        """The last delta: what is allowed of the held ones of the block that goes on here."""
        if first["type"] != "content_block_delta":
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

    def _close_block(self) -> Iterator[bytes]:
        if self._open is not None:
            yield encode_named_event({"type": "content_block_stop", "index": self._open})
            self._open = None

    def _take_error(self) -> Iterator[bytes]:
        if self._form.structured or self._policy.closed() is not None:
            # A forced end of text violates the grammar, and the engine calls that its fault.
            self._held.clear()
            yield from self._end()
            return
        self.ended = True
        # In a stream the engine tells faults of its own only.
        yield _error(FAILED)

    def _end(self) -> Iterator[bytes]:
        self.ended = self.cut_short = True
        if not self._started:
            yield _error(FAILED)
            return
        yield from self._close_block()
        yield from end_of_message(self._usage)


def _error(message: str) -> bytes:
    return encode_named_event({"type": "error", "error": {"type": "api_error", "message": message}})
