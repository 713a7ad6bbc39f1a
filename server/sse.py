"""Server-sent events as bytes: split without changing them, and written as vLLM does."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any

DONE = b"data: [DONE]\n\n"
_BLANK_LINE = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_LONGEST_BLANK_LINE = 4


class EventSplitter:
    """Cuts a byte stream into events; joined again they are the stream.

    In time linear in the bytes, however they are cut.
    """

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The events that are now complete, each with the blank line that ends it."""
        alone = data.endswith(b"\n\n") and data.find(b"\n\n") == len(data) - 2
        if alone and not self._rest and b"\r" not in data:
            # As vLLM sends them, one by one.
            return [data]
        # What was there holds no blank line, but perhaps the beginning of one.
        start = max(0, len(self._rest) - _LONGEST_BLANK_LINE + 1)
        self._rest += data
        ends = [blank.end() for blank in _BLANK_LINE.finditer(self._rest, start)]
        events = [bytes(self._rest[begin:end]) for begin, end in pairwise((0, *ends))]
        if ends:
            del self._rest[: ends[-1]]
        return events

    @property
    def rest(self) -> bytes:
        """Bytes of an unfinished event."""
        return bytes(self._rest)


def event_data(event: bytes) -> bytes | None:
    """The data of an event; None for a comment or an event without data."""
    lines = [
        line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:")
    ]
    return b"\n".join(lines) if lines else None


def encode_event(payload: dict[str, Any]) -> bytes:
    """An event that carries a JSON object."""
    return b"data: " + encode_json(payload) + b"\n\n"


def encode_named_event(payload: dict[str, Any]) -> bytes:
    """An event that is named by its own `type`, as Anthropic and the Responses API have them."""
    name = str(payload["type"])
    return f"event: {name}\n".encode() + encode_event(payload)


def encode_json(payload: Any) -> bytes:
    """JSON in vLLM's own form: compact, UTF-8."""
    return json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode()
