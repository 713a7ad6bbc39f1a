"""A response on its way to the client, read for the store when all shields are behind it.

Wraps the client's `send`. Where the engine was sent another body than the client's, the response
says again what the client's said.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from starlette.types import Message, Send

from server.apis.response_stream import COMPLETED, INCOMPLETE
from server.off_loop import off_loop
from server.sse import EventSplitter, encode_json, encode_named_event, event_data

_STREAM = b"text/event-stream"
_LAST = (f"event: {COMPLETED}\n".encode(), f"event: {INCOMPLETE}\n".encode())
_WITH_RESPONSE = (b"event: response.created\n", b"event: response.in_progress\n", *_LAST)


class ResponseRecord:
    """One response. `keep` gets it whole, once the client has it."""

    def __init__(
        self,
        send: Send,
        restored: dict[str, Any],
        keep: Callable[[dict[str, Any]], None] | None,
    ) -> None:
        self._send = send
        self._restored = restored
        self._keep = keep
        self._start: Message = {}
        self._splitter: EventSplitter | None = None
        self._body = bytearray()

    async def send(self, message: Message) -> None:
        """What the gateway calls with its answer."""
        if message["type"] == "http.response.start":
            await self._take_start(message)
        elif self._splitter is not None:
            out = b"".join(map(self._event, self._splitter.feed(message.get("body", b""))))
            await self._send({**message, "body": out})
        elif self._start:
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._send_whole()
        else:
            await self._send(message)

    async def _take_start(self, message: Message) -> None:
        headers = {bytes(k).lower(): bytes(v) for k, v in message.get("headers", ())}
        if message["status"] != 200:
            await self._send(message)
        elif headers.get(b"content-type", b"").startswith(_STREAM):
            self._splitter = EventSplitter()
            await self._send(message)
        else:
            self._start = message

    async def _send_whole(self) -> None:
        body = bytes(self._body)
        response = await off_loop(len(body), json.loads, body)
        if self._restored:
            response |= self._restored
            body = encode_json(response)
        headers = [
            (k, v) for k, v in self._start["headers"] if bytes(k).lower() != b"content-length"
        ]
        length = (b"content-length", str(len(body)).encode())
        await self._send({**self._start, "headers": [*headers, length]})
        self._kept(response)
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    def _event(self, raw: bytes) -> bytes:
        if not raw.startswith(_WITH_RESPONSE if self._restored else _LAST):
            return raw
        event = json.loads(event_data(raw) or b"")
        if self._restored:
            event["response"] |= self._restored
            raw = encode_named_event(event)
        if raw.startswith(_LAST):
            self._kept(event["response"])
        return raw

    def _kept(self, response: dict[str, Any]) -> None:
        if self._keep is not None:
            self._keep(response)
