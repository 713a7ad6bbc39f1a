"""An answer that passes as it is and is read along: what targets in observe mode would have ended.

Wraps the client's `send`. Whatever fails in here is logged and ends the reading, not the answer.
"""

from __future__ import annotations

from starlette.types import Message, Send

from guard.nets import Catch
from server.apis.api import Api
from server.choice_shield import ShieldPolicy
from server.log import fault_fields, get_logger
from server.shielded_events import RecordBlock
from server.stream_form import StreamForm

log = get_logger("shield")
_STREAM = b"text/event-stream"


class ObservedResponse:
    """One response. It is counted once, with the first that its nets catch."""

    def __init__(
        self, send: Send, api: Api, policy: ShieldPolicy, form: StreamForm, record: RecordBlock
    ) -> None:
        self._send = send
        self._api = api
        self._policy = policy
        self._record = record
        self._stream = api.shield_stream(policy, form, self._record_once)
        self._is_stream = False
        self._body = bytearray()
        self._reading = True

    async def send(self, message: Message) -> None:
        """What the inner app calls with its response."""
        if self._reading:
            try:
                self._read(message)
            except Exception as error:
                self._reading = False
                log.error("answer_not_observed", **fault_fields(error))
        await self._send(message)

    def _read(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = {bytes(k).lower(): bytes(v) for k, v in message.get("headers", ())}
            self._reading = message["status"] == 200
            self._is_stream = headers.get(b"content-type", b"").startswith(_STREAM)
            return
        data, more = bytes(message.get("body", b"")), message.get("more_body", False)
        if self._is_stream:
            self._stream.feed(data)
            return
        self._body += data
        if not more:
            self._api.shield_whole(self._policy, bytes(self._body), self._record_once)

    def _record_once(self, surface: str, caught: Catch | None) -> None:
        if self._reading:
            self._reading = False
            self._record(surface, caught)
