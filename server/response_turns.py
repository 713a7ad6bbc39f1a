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
from server.errors import InvalidRequest, NotFound, Overloaded, UnsupportedFeature
from server.log import fault_fields, get_logger
from server.reply import Reply
from server.response_record import ResponseRecord
from server.response_store import ResponseStore, StoredResponse
from server.shielded_events import FAILED
from server.sse import encode_json

_log = get_logger("responses")

# Responses in the making in the background, for each key.
MAX_RUNNING = 64
_COMPLETE = ("completed", "incomplete")
_LINK, _BACKGROUND = "previous_response_id", "background"

Run = Callable[[Send], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Turn:
    """One request: whose it is, the body with all turns, and what its answers repeat of its own.

    `raw` is None where the client's own bytes say the same.
    """

    owner: str
    body: dict[str, Any]
    raw: bytes | None
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

    def begin(self, owner: str, body: dict[str, Any]) -> Turn:
        """Read a request's body.

        Raises:
            NotFound: the previous response is not this owner's, or not there any more.
            InvalidRequest: the previous response is not complete, or a field is unfit.
            UnsupportedFeature: the background is asked for in a way that is not supported.
        """
        kept = self._store.is_on and bool(body.get("store", True))
        restored: dict[str, Any] = {}
        whole = body
        if body.get(_LINK) is not None:
            restored[_LINK] = body[_LINK]
            whole = self._joined(owner, body)
        if body.get(_BACKGROUND):
            self._check_background(body, kept=kept)
            restored[_BACKGROUND] = True
            whole = {**whole, _BACKGROUND: False, "request_id": response_id(body)}
        raw = None if whole is body else encode_json(whole)
        return Turn(owner, whole, raw, restored, kept)

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

    def start(self, turn: Turn, run: Run, ended: Callable[[], None]) -> Reply:
        """Make a response in the background; the reply says that it is queued.

        `ended` is called when that is over, also if it never began.

        Raises:
            Overloaded: too many are in the making.
        """
        key = (turn.owner, str(turn.body["request_id"]))
        if sum(owner == turn.owner for owner, _ in self._running) >= MAX_RUNNING:
            raise Overloaded("Too many responses are in the making.", retry_after_seconds=1)
        if key in self._running:
            raise InvalidRequest("There is a response of this id.", param="request_id")
        queued = self._outcome(turn, "queued")
        task = asyncio.create_task(self._run(turn, run))
        self._running[key] = task
        task.add_done_callback(lambda _: self._running.pop(key, None))
        task.add_done_callback(lambda _: ended())
        return Reply(200, encode_json(queued))

    async def cancel(self, owner: str, id_: str) -> Reply:
        """End a response in the making.

        Raises:
            NotFound: it is not this owner's, or not there any more.
            InvalidRequest: it is not in the making.
        """
        stored = self.find(owner, id_)
        task = self._running.get((owner, id_))
        if task is None or task.done():
            raise InvalidRequest("Cannot cancel a synchronous response.", param="response_id")
        task.cancel()
        await asyncio.wait({task})
        answer = json.loads(stored.answer) | {"status": "cancelled"}
        cancelled = StoredResponse(stored.request, encode_json(answer))
        self._store.put(owner, id_, cancelled)
        return Reply(200, cancelled.answer)

    def _joined(self, owner: str, body: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(body[_LINK], str):
            raise InvalidRequest(f"{_LINK} must be a string.", param=_LINK)
        stored = self.find(owner, body[_LINK])
        answer = json.loads(stored.answer)
        if answer["status"] not in _COMPLETE:
            raise InvalidRequest("The previous response is not complete.", param=_LINK)
        before = items_of(json.loads(stored.request))
        items = continued(before, answer["output"], items_of(body))
        return {k: v for k, v in body.items() if k != _LINK} | {"input": items}

    def _check_background(self, body: dict[str, Any], *, kept: bool) -> None:
        if not kept:
            raise UnsupportedFeature("background needs a stored response.", param=_BACKGROUND)
        if body.get("stream"):
            raise UnsupportedFeature("Nothing in the background is streamed.", param="stream")

    def _keep(self, turn: Turn, response: dict[str, Any]) -> None:
        self._store.put(turn.owner, str(response["id"]), StoredResponse.of(turn.body, response))

    def _outcome(self, turn: Turn, status: str, **more: Any) -> dict[str, Any]:
        """Keep a response without output."""
        body = turn.body
        response = response_object(body, str(body["request_id"]), self._model, status)
        response |= turn.restored | more
        self._keep(turn, response)
        return response

    async def _run(self, turn: Turn, run: Run) -> None:
        sink = _Sink()
        try:
            await run(self.recording(turn, sink.send))
        except Exception as error:
            _log.error("a response in the background failed", **fault_fields(error))
            sink.status = 0
        if sink.status != 200:
            error_told = {"code": "server_error", "message": sink.message()}
            self._outcome(turn, "failed", error=error_told)


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
            return str(json.loads(self.body)["error"]["message"])
        except (ValueError, LookupError, TypeError):
            return FAILED
