"""One exchange with the application behind: what it is shown, and until when it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from starlette.types import Message, Receive, Scope, Send

from server.errors import EngineStalled, ServerError
from server.log import fault_fields, get_logger
from server.reply import reply_of, unavailable
from server.shielded_response import Headers, ShieldedResponse

log = get_logger("gateway")
_ABORT_SECONDS = 0.5


class Started:
    """Remembers whether a response has begun."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.value = False

    async def send(self, message: Message) -> None:
        """Hand a message on."""
        self.value = True
        await self._send(message)


async def run_until(inner: Awaitable[None], response: ShieldedResponse) -> None:
    """Run the inner app to its end; if the response is cut short, it gets time to notice."""
    task = asyncio.ensure_future(inner)
    ended = asyncio.ensure_future(response.cut_short.wait())
    try:
        await asyncio.wait({task, ended}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            await asyncio.wait({task}, timeout=_ABORT_SECONDS)
        error = task.exception() if task.done() and not task.cancelled() else None
        # Of an engine that hangs `server.engine_watch` tells, once.
        if error is not None and not isinstance(error, EngineStalled):
            log.error("inner_app_failed", **fault_fields(error))
        await response.fail(reply_of(error) if isinstance(error, ServerError) else unavailable())
    finally:
        task.cancel()
        ended.cancel()
        await asyncio.gather(task, ended, return_exceptions=True)


def until_cut_short(receive: Receive, ended: asyncio.Event) -> Receive:
    """A `receive` that reports a disconnect once the response is cut short.

    That is how the engine learns, on its usual way, that nobody wants the rest.
    """

    async def receive_or_leave() -> Message:
        message = asyncio.ensure_future(receive())
        left = asyncio.ensure_future(ended.wait())
        try:
            await asyncio.wait({message, left}, return_when=asyncio.FIRST_COMPLETED)
            return message.result() if message.done() else {"type": "http.disconnect"}
        finally:
            message.cancel()
            left.cancel()

    return receive_or_leave


async def nothing_more() -> Message:
    """A `receive` of a client that does not wait."""
    await asyncio.Event().wait()
    return {"type": "http.disconnect"}


def readable_scope(scope: Scope, body: bytes) -> Scope:
    """The scope for a body; an answer that is to be read must not be compressed."""
    dropped = (b"content-length", b"accept-encoding", b"transfer-encoding")
    kept = [(k, v) for k, v in scope["headers"] if k not in dropped]
    return {**scope, "headers": [*kept, (b"content-length", str(len(body)).encode())]}


def adding(send: Send, headers: Headers) -> Send:
    """A `send` that adds headers to the response."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *headers]}
        await send(message)

    return send_with_headers
