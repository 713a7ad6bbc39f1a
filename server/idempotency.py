"""`Idempotency-Key` on the admin API's POSTs: the same request gets the same answer, done once.

Plain ASGI, inside the layer that checks bodies. Only what a caller could mend or has been done is
kept: a failure of the server may be tried again under the same key.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.auth import Caller
from server.errors import InvalidField
from server.replays import MAX_BODY_BYTES, Answer, Replays
from server.request_body import header, read_body, replay

_HEADER = "Idempotency-Key"
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_REPLAYED = (b"idempotent-replayed", b"true")


class Idempotent:
    """Wraps the admin application.

    `identify` says whose key an Authorization header holds, `refuses` which requests take no
    Idempotency-Key: their bodies are not read as a whole, or their answers must not be kept.
    """

    def __init__(
        self,
        app: ASGIApp,
        replays: Replays,
        identify: Callable[[str | None], Caller | None],
        refuses: Callable[[Scope], bool],
        max_bytes: int,
    ) -> None:
        self._app, self._replays, self._identify = app, replays, identify
        self._refuses, self._max_bytes = refuses, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        given = header(scope, b"idempotency-key") if scope["type"] == "http" else None
        if given is None or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        caller = self._identify(header(scope, b"authorization"))
        if caller is None:
            await self._app(scope, receive, send)
            return
        if not _KEY.fullmatch(given):
            raise InvalidField(
                f"{_HEADER}: must be 1 to 255 visible ASCII characters", param=_HEADER
            )
        if self._refuses(scope):
            raise InvalidField(f"{_HEADER}: is not taken by this request", param=_HEADER)
        body = await read_body(scope, receive, self._max_bytes)
        if body is not None:
            key = _digest(caller.id.encode(), given.encode())
            await self._once(key, scope, body, replay(body, receive), send)

    async def _once(
        self, key: str, scope: Scope, body: bytes, receive: Receive, send: Send
    ) -> None:
        request = _digest(scope["path"].encode(), scope.get("query_string", b""), body)
        known = await asyncio.to_thread(self._replays.begin, key, request)
        if known is not None:
            await _give_again(known, send)
            return
        heard = _Heard(send)
        try:
            await self._app(scope, receive, heard.send)
        finally:
            # Also when the client is gone: the answer is what it will ask for.
            await asyncio.shield(asyncio.to_thread(self._replays.finish, key, heard.answer()))
        await heard.end()


class _Heard:
    """Sends an answer on and remembers it; its end waits, so that who has it all can ask again."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._status = 0
        self._headers: tuple[tuple[str, str], ...] = ()
        self._body = bytearray()
        self._last: Message | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._headers = tuple(
                (name.decode("latin-1"), value.decode("latin-1"))
                for name, value in message["headers"]
            )
        elif message["type"] == "http.response.body":
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                self._last = message
                return
        await self._send(message)

    async def end(self) -> None:
        """Send what was held back."""
        if self._last is not None:
            await self._send(self._last)

    def answer(self) -> Answer | None:
        """The whole answer, if it is one to keep."""
        if self._last is None or self._status >= 500 or len(self._body) > MAX_BODY_BYTES:
            return None
        return Answer(self._status, self._headers, self._body.decode())


async def _give_again(answer: Answer, send: Send) -> None:
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
    start = {"status": answer.status, "headers": [*headers, _REPLAYED]}
    await send({"type": "http.response.start", **start})
    await send({"type": "http.response.body", "body": answer.body.encode(), "more_body": False})


def _digest(*parts: bytes) -> str:
    """One digest of several parts, wherever the borders between them are."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(hashlib.sha256(part).digest())
    return whole.hexdigest()
