"""A refusal as an Anthropic message: it says so and stops for `refusal`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from server.sse import encode_named_event

STOP_REASON = "refusal"


@dataclass(frozen=True, slots=True)
class MessageRefusal:
    """A refusal of one request: the answer's id, the model's name, and what is said."""

    id: str
    model: str
    text: str

    def completion(self) -> dict[str, Any]:
        """The whole message."""
        content = [{"type": "text", "text": self.text}]
        return {**self._message(content), "stop_reason": STOP_REASON}

    def events(self) -> Iterator[bytes]:
        """The message as a stream."""
        block = {"type": "text", "text": ""}
        delta = {"type": "text_delta", "text": self.text}
        yield encode_named_event({"type": "message_start", "message": self._message([])})
        yield encode_named_event(
            {"type": "content_block_start", "index": 0, "content_block": block}
        )
        yield encode_named_event({"type": "content_block_delta", "index": 0, "delta": delta})
        yield encode_named_event({"type": "content_block_stop", "index": 0})
        yield from end_of_message({"input_tokens": 0, "output_tokens": 0})

    def _message(self, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "content": content,
            "model": self.model,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 0, "output_tokens": 0},
        }


def end_of_message(usage: dict[str, Any]) -> Iterator[bytes]:
    """The last two events of a message that stops for `refusal`."""
    delta = {"stop_reason": STOP_REASON, "stop_sequence": None}
    yield encode_named_event({"type": "message_delta", "delta": delta, "usage": usage})
    yield encode_named_event({"type": "message_stop"})
