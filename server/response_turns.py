"""Conversations that clients go on with by a response's id, and responses made in the background.

The engine has no part in either: it gets every conversation whole and is told to store nothing, for
it would store what it said and not what the client was shown. So the guard reads all turns.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Message, Send

from server.apis.response_items import continued, items_of
from server.apis.response_object import response_id, response_object
from server.errors import BodyTooLarge, InvalidRequest, NotFound, Overloaded, UnsupportedFeature
from server.log import fault_fields, get_logger
from server.off_loop import off_loop
from server.reply import Reply
from server.response_record import ResponseRecord
from server.response_store import ResponseStore, StoredResponse
from server.shielded_events import FAILED
from server.sse import encode_json

log = get_logger("responses")

# Responses in the making in the background, for each key.
MAX_RUNNING = 64
# Room for what a response says when it fails; a character can take six bytes of JSON.
_ERROR_BYTES = 4096
_MESSAGE_CHARS = 500
_COMPLETE = ("completed", "incomplete")
_LINK, _BACKGROUND = "previous_response_id", "background"

Run = Callable[[Send], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Turn:
    """One request: whose it is, the body with all turns, and what its answers repeat of its own.

    `raw` is the body as JSON: the client's own bytes where they say the same.
    """

    owner: str
    body: dict[str, Any]
    raw: bytes
    restored: dict[str, Any] = field(default_factory=dict)
    kept: bool = False

    @property
    def in_background(self) -> bool:
        """Whether the client does not wait."""
        return _BACKGROUND in self.restored


class ResponseTurns:
    """The turns of all keys."""

    def __init__(self, store: ResponseStore, model: str) -> None:
        self._store = store
        self._model = model
        self._running: dict[tuple[str, str], asyncio.Task[None]] = {}

    async def begin(self, owner: str, raw: bytes, body: dict[str, Any], max_bytes: int) -> Turn:
        """Read a request's body; with all turns it may have `max_bytes`, as if it had been sent so.

        Raises:
            NotFound: the previous response is not this owner's, or not there any more.
            BodyTooLarge: all turns together are longer.
            InvalidRequest: the previous response is not complete, or a field is unfit.
            UnsupportedFeature: the background is asked for in a way that is not supported.
        """
        kept = self._store.is_on and bool(body.get("store", True))
        restored: dict[str, Any] = {}
        before = None
        if body.get(_LINK) is not None:
            restored[_LINK] = body[_LINK]
            before = self._previous(owner, body[_LINK])
        if body.get(_BACKGROUND):
            self._check_background(body, kept=kept)
            restored[_BACKGROUND] = True
        if restored:
            num_bytes = len(raw) + (0 if before is None else before.num_bytes)
            body, raw = await off_loop(num_bytes, _whole, body, before)
        if before is not None and len(raw) > max_bytes:
            raise BodyTooLarge(
                f"All turns together are longer than {max_bytes} bytes.", param=_LINK
            )
        return Turn(owner, body, raw, restored, kept)

    def recording(self, turn: Turn, send: Send) -> Send:
        """A `send` that keeps the response and lets it say what its request said."""
        if not turn.kept and not turn.restored:
            return send
        keep = (lambda response: self._keep(turn, response)) if turn.kept else None
        return ResponseRecord(send, turn.restored, keep).send

    def find(self, owner: str, id_: str) -> StoredResponse:
        """A stored response.

        Raises:
            NotFound: it is not this owner's, or not there any more.
        """
        stored = self._store.get(owner, id_)
        if stored is None:
            raise NotFound("There is no such response.", param="response_id")
        return stored

    async def start(self, turn: Turn, run: Run, ended: Callable[[], None]) -> Reply:
        """Make a response in the background; the reply says that it is queued.

        `ended` is called when that is over, also if it never began.

        Raises:
            BodyTooLarge: not even the request could be kept.
            Overloaded: too many are in the making.
        """
        queued = await off_loop(len(turn.raw), self._without_output, turn, "queued")
        if not self._store.takes(queued.num_bytes + _ERROR_BYTES):
            message = "The body is too long for a response that is kept."
            raise BodyTooLarge(message, param=_BACKGROUND)
        key = (turn.owner, str(turn.body["request_id"]))
        if sum(owner == turn.owner for owner, _ in self._running) >= MAX_RUNNING:
            raise Overloaded("Too many responses are in the making.", retry_after_seconds=1)
        if key in self._running:
            raise InvalidRequest("There is a response of this id.", param="request_id")
        self._store.put(*key, queued)
        task = asyncio.create_task(self._run(turn, run))
        self._running[key] = task
        task.add_done_callback(lambda _: self._running.pop(key, None))
        task.add_done_callback(lambda _: ended())
        return Reply(200, queued.answer)

    async def cancel(self, owner: str, id_: str) -> Reply:
        """End a response in the making.

        Raises:
            NotFound: it is not this owner's, or not there any more.
            InvalidRequest: it is not in the making.
        """
        stored = self.find(owner, id_)
        cancelled = await off_loop(stored.num_bytes, _cancelled, stored)
        task = self._running.get((owner, id_))
        if task is None or task.done():
            raise InvalidRequest("Cannot cancel a synchronous response.", param="response_id")
        task.cancel()
        await asyncio.wait({task})
        self._store.put(owner, id_, cancelled)
        return Reply(200, cancelled.answer)

    def _previous(self, owner: str, id_: Any) -> StoredResponse:
        if not isinstance(id_, str):
            raise InvalidRequest(f"{_LINK} must be a string.", param=_LINK)
        return self.find(owner, id_)

    def _check_background(self, body: dict[str, Any], *, kept: bool) -> None:
        if not kept:
            raise UnsupportedFeature("background needs a stored response.", param=_BACKGROUND)
        if body.get("stream"):
            raise UnsupportedFeature("Nothing in the background is streamed.", param="stream")

    def _keep(self, turn: Turn, response: dict[str, Any]) -> None:
        stored = StoredResponse(turn.raw, encode_json(response))
        if not self._store.put(turn.owner, str(response["id"]), stored) and turn.in_background:
            self._fail(turn, "The response is longer than what is kept of a key's.")

    def _fail(self, turn: Turn, message: str) -> None:
        # No code of the API's closed list says more, and its clients may know no other.
        failed = {"code": "server_error", "message": message}
        stored = self._without_output(turn, "failed", error=failed)
        self._store.put(turn.owner, str(turn.body["request_id"]), stored)

    def _without_output(self, turn: Turn, status: str, **more: Any) -> StoredResponse:
        body = turn.body
        response = response_object(body, str(body["request_id"]), self._model, status)
        return StoredResponse(turn.raw, encode_json(response | turn.restored | more))

    async def _run(self, turn: Turn, run: Run) -> None:
        sink = _Sink()
        try:
            await run(self.recording(turn, sink.send))
        except Exception as error:
            log.error("background_response_failed", **fault_fields(error))
            sink.status = 0
        if sink.status != 200:
            self._fail(turn, sink.message())


def _whole(body: dict[str, Any], before: StoredResponse | None) -> tuple[dict[str, Any], bytes]:
    """A body as the engine gets it, with the turns before; and as JSON."""
    if before is not None:
        body = _joined(body, before)
    if body.get(_BACKGROUND):
        body = {**body, _BACKGROUND: False, "request_id": response_id(body)}
    return body, encode_json(body)


def _joined(body: dict[str, Any], before: StoredResponse) -> dict[str, Any]:
    answer = json.loads(before.answer)
    if answer["status"] not in _COMPLETE:
        raise InvalidRequest("The previous response is not complete.", param=_LINK)
    items = items_of(json.loads(before.request))
    items = continued(items, answer["output"], items_of(body))
    return {k: v for k, v in body.items() if k != _LINK} | {"input": items}


def _cancelled(stored: StoredResponse) -> StoredResponse:
    answer = json.loads(stored.answer) | {"status": "cancelled"}
    return StoredResponse(stored.request, encode_json(answer))


class _Sink:
    """Takes an answer that no client waits for."""

    def __init__(self) -> None:
        self.status = 0
        self.body = b""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.body += message.get("body", b"")

    def message(self) -> str:
        """What an error says."""
        try:
            return str(json.loads(self.body)["error"]["message"])[:_MESSAGE_CHARS]
        except (ValueError, LookupError, TypeError):
            return FAILED
