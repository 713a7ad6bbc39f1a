"""The engine's answer on its way through the shield (the ASGI side).

Wraps the client's `send`. A stream is shielded event by event, anything else when it is whole.
Whatever fails in here ends the answer; nothing that was not judged gets out.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from starlette.types import Message, Send

from server.apis.api import Api, Refused, ShieldedStream
from server.choice_shield import ShieldPolicy
from server.log import fault_fields, get_logger
from server.reply import Reply, unavailable
from server.shielded_events import RecordBlock
from server.sse import encode_json
from server.stream_form import StreamForm
from server.whole_shield import shield_error

Headers = list[tuple[bytes, bytes]]

log = get_logger("shield")
_STREAM = b"text/event-stream"
# What vLLM's handlers give when the client has left: nobody reads it, and it is no fault.
_NO_ANSWER = b"null"
# Answers this long (they carry log-probabilities) are read beside everybody's streams, not between.
_OFF_LOOP_BYTES = 256 * 1024


class ShieldedResponse:
    """One response.

    `cut_short` is set when the client has it all before the engine is done, and the engine may
    stop; `shield_seconds` is the time that shielding took. `told_last` gives the headers of a whole
    answer that are known only at its end.
    """

    def __init__(
        self,
        send: Send,
        api: Api,
        policy: ShieldPolicy,
        form: StreamForm,
        *,
        headers: Headers,
        filtered: Callable[[], Refused],
        record_block: RecordBlock,
        told_last: Callable[[], Headers] = list,
    ) -> None:
        self._send = send
        self._api = api
        self._policy = policy
        self._form = form
        self._headers = headers
        self._filtered = filtered
        self._record_block = record_block
        self._told_last = told_last
        self._start: Message = {}
        self._body = bytearray()
        self._stream: ShieldedStream | None = None
        self._complete = False
        self.cut_short = asyncio.Event()
        self.shield_seconds = 0.0

    async def send(self, message: Message) -> None:
        """What the inner app calls with its response."""
        if self._complete:
            return
        if message["type"] == "http.response.start":
            await self._take_start(message)
        elif message["type"] == "http.response.body":
            data, more = bytes(message.get("body", b"")), message.get("more_body", False)
            if self._stream is not None:
                await self._take_stream(self._stream, data, more)
            else:
                await self._take_whole(data, more)

    async def fail(self, reply: Reply) -> None:
        """The inner app gave up, or ended without a whole response: `reply`, or a stream's end."""
        if self._complete:
            return
        if self._stream is not None:
            await self._finish_stream(self._stream.close())
        else:
            await self._reply(self._api.error(reply), [])

    async def _take_start(self, message: Message) -> None:
        self._start = message
        headers = {bytes(k).lower(): bytes(v) for k, v in message.get("headers", ())}
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            # Nobody was asked to, and what is compressed cannot be judged.
            await self._reply(self._api.error(unavailable()), [])
            self.cut_short.set()
        elif message["status"] == 200 and headers.get(b"content-type", b"").startswith(_STREAM):
            self._stream = self._api.shield_stream(self._policy, self._form, self._record_block)
            kept = _without(message["headers"], (b"content-length",))
            await self._send({**message, "headers": [*kept, *self._headers]})

    async def _take_stream(self, stream: ShieldedStream, data: bytes, more: bool) -> None:
        begun = time.perf_counter()
        try:
            out = stream.feed(data)
            if not more:
                out += stream.close()
        except Exception as error:
            log.error("shield_failed_in_stream", **fault_fields(error))
            out = stream.abandon()
        self.shield_seconds += time.perf_counter() - begun
        if stream.cut_short or not more:
            if more:
                # Before sending: if the client is gone that may raise, and the engine must stop.
                self.cut_short.set()
            await self._finish_stream(out)
        elif out:
            await self._send({"type": "http.response.body", "body": out, "more_body": True})

    async def _finish_stream(self, out: bytes) -> None:
        self._complete = True
        await self._send({"type": "http.response.body", "body": out, "more_body": False})

    async def _take_whole(self, data: bytes, more: bool) -> None:
        self._body += data
        if more:
            return
        body = bytes(self._body)
        begun = time.perf_counter()
        if len(body) > _OFF_LOOP_BYTES or self._start["status"] != 200:
            # An error may have to be compared with the request, which is long.
            reply = await asyncio.to_thread(self._judge, body)
        else:
            reply = self._judge(body)
        self.shield_seconds += time.perf_counter() - begun
        if reply == Reply(self._start["status"], body):
            self._complete = True
            headers = [*self._start.get("headers", ()), *self._headers, *self._told_last()]
            await self._send({**self._start, "headers": headers})
            await self._send({"type": "http.response.body", "body": body, "more_body": False})
        else:
            await self._reply(reply, [*self._start.get("headers", ()), *self._told_last()])

    def _judge(self, body: bytes) -> Reply:
        status = self._start["status"]
        if body == _NO_ANSWER:
            return self._api.error(unavailable())
        try:
            if status == 200:
                return self._api.shield_whole(self._policy, body, self._record_block)
            if status == 500 and (self._form.structured or self._policy.closed() is not None):
                # A forced end of text violates the grammar, and the engine calls that its fault.
                return Reply(200, encode_json(self._filtered().completion()))
            reply = shield_error(self._policy, status, body, self._record_block)
            return reply if reply.body == body else self._api.error(reply)
        except Exception as error:
            log.error("shield_failed", **fault_fields(error))
            self._record_block("other", None)
            return self._api.error(unavailable())

    async def _reply(self, reply: Reply, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self._complete = True
        dropped = (b"content-length", b"content-type")
        await send_reply(self._send, reply, [*_without(headers, dropped), *self._headers])


async def send_reply(send: Send, reply: Reply, headers: Headers) -> None:
    """Send a JSON response."""
    ours = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in reply.headers]
    length = (b"content-length", str(len(reply.body)).encode())
    start = [*headers, *ours, (b"content-type", b"application/json"), length]
    await send({"type": "http.response.start", "status": reply.status, "headers": start})
    await send({"type": "http.response.body", "body": reply.body, "more_body": False})


def _without(headers: Iterable[tuple[bytes, bytes]], names: tuple[bytes, ...]) -> Headers:
    return [(k, v) for k, v in headers if bytes(k).lower() not in names]
