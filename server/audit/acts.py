"""Records every act over the admin API: who changed what, or read forget text.

Plain ASGI, inside the layer that checks bodies. A change is refused while it could not be recorded.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.audit.writer import Recorder
from server.auth import Caller
from server.request_body import header

_CHANGES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
# Ids, numbers and words of this API.
_PLAIN = re.compile(r"[A-Za-z0-9._:/-]{1,256}", re.ASCII)
_COLLECTION = re.compile(r"/admin/v1/[a-z]+(?=/)", re.ASCII)
# What shows forget text; of a snapshot's many files the manifest stands for all.
_READS = re.compile(
    r"/admin/v1/(targets:export|targets/[^/]+|corpora/[^/]+/documents/[^/]+)(/.*)?"
    r"|/node/v1/(lists|assistants|indexes)/[^/]+(/[0-9a-f]{64})?"
)
_REPORTS = re.compile(r"/node/v1/nodes/[^/]+(/counts)?")


class RecordedActs:
    """Wraps the admin application; `identify` says whose key an Authorization header holds."""

    def __init__(
        self, app: ASGIApp, recorder: Recorder, identify: Callable[[str | None], Caller | None]
    ) -> None:
        self._app, self._recorder, self._identify = app, recorder, identify

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request.

        Raises:
            AuditUnavailable: a change could not be recorded now.
        """
        changes = (
            scope["type"] == "http"
            and scope["method"] in _CHANGES
            # Nodes say how they are, and what they counted, every few seconds.
            and not _REPORTS.fullmatch(scope["path"])
        )
        reads = scope["type"] == "http" and _READS.fullmatch(scope["path"]) is not None
        caller = self._identify(header(scope, b"authorization")) if changes or reads else None
        if caller is None:  # strangers are turned away
            await self._app(scope, receive, send)
            return
        if changes:
            self._recorder.check()
        status = 500

        async def noting_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting_send)
        finally:
            path = _recorded(scope["path"], status)
            record_act(self._recorder, caller, scope["method"], path, status)


def record_act(recorder: Recorder, caller: Caller, method: str, path: str, status: int) -> None:
    """Record one act; `path` holds no text."""
    recorder.record(
        "admin",
        key=caller.id,
        role=caller.role.name.lower(),
        method=method,
        path=path,
        status=status,
    )


def _recorded(path: str, status: int) -> str:
    """A path as it is recorded: what is not there may be any text."""
    if status != 404 and _PLAIN.fullmatch(path):
        return path
    collection = _COLLECTION.match(path)
    return "?" if collection is None else f"{collection.group()}/?"
