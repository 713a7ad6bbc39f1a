"""How many tokens an answer has cost, read from what goes to the client.

The engine's own count (`usage`) is the last field of that name, of a stream's last events: a
response repeats what its client wrote (tools, metadata), before that. A stream that the client did
not ask to count is counted by its events, one token each.
"""

from __future__ import annotations

import json
import re
from typing import Any

from starlette.types import Message, Send

_TAIL_BYTES = 16 * 1024
# A quote within a JSON string has a backslash before it, so this is no text that a model wrote.
_USAGE = re.compile(rb'(?<!\\)"usage"\s*:\s*(\{(?:[^{}]|\{[^{}]*\})*\})')
# The count, and what says that nothing follows.
_LAST_EVENTS = 2
_STREAM = b"text/event-stream"


class Meter:
    """Wraps the client's `send`; changes nothing."""

    def __init__(self, send: Send, prompt_tokens: int) -> None:
        self._send = send
        self._prompt_tokens = prompt_tokens
        self._status = 0
        self._is_stream = False
        self._events = 0
        self._tail = b""

    async def send(self, message: Message) -> None:
        """What the gateway calls with its answer."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            kind = dict(message.get("headers", ())).get(b"content-type", b"")
            self._is_stream = bytes(kind).startswith(_STREAM)
        elif message["type"] == "http.response.body":
            data = bytes(message.get("body", b""))
            self._events += data.count(b"\n\n") if self._is_stream else 0
            self._tail = (self._tail + data)[-_TAIL_BYTES:]
        await self._send(message)

    @property
    def tokens(self) -> int | None:
        """Tokens of prompt and answer; None where nobody can tell."""
        if self._status != 200:
            return 0 if self._status else None
        tail = self._tail
        if self._is_stream:
            tail = b"\n\n".join(tail.rstrip(b"\n").split(b"\n\n")[-_LAST_EVENTS:])
        found = _USAGE.findall(tail)
        if found:
            return self._counted(json.loads(found[-1]))
        return self._prompt_tokens + self._events if self._is_stream else None

    def _counted(self, usage: dict[str, Any]) -> int:
        if isinstance(total := usage.get("total_tokens"), int):
            return max(0, total)
        prompt = usage.get("input_tokens", self._prompt_tokens)
        return max(0, int(prompt or 0)) + max(0, int(usage.get("output_tokens") or 0))
