"""`GET /readyz`: ready only when policy, classifier, keys and engine are; says which is not."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Scope

from server.auth import KeyRing
from server.guarding import Guard
from server.reply import Reply
from server.sse import encode_json


async def readiness(
    guard: Guard, keys: KeyRing, app: ASGIApp, scope: Scope, *, may_serve: bool = True
) -> Reply:
    """200 when everything is ready, else 503 with the names of the parts that are not.

    `may_serve` is False on a node that must not.
    """
    view = guard.current()
    waiting = dict.fromkeys([*guard.unready(), *([] if view is not None else ["policy"])])
    if not may_serve:
        waiting["node"] = None
    if not keys.readable:
        waiting["keys"] = None
    if not await _is_healthy(app, scope):
        waiting["engine"] = None
    if view is None or waiting:
        body = {"status": "not_ready", "waiting_for": list(waiting)}
        return Reply(503, encode_json(body), (("retry-after", "1"),))
    return Reply(200, encode_json({"status": "ready", "generation": view.generation}))


async def _is_healthy(app: ASGIApp, scope: Scope) -> bool:
    """What the inner app says to GET /health."""
    status = 0

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]

    root = scope.get("root_path", "")
    path = f"{root}/health"
    asked = {**scope, "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b""}
    try:
        await app(asked, receive, send)
    except Exception:
        # An engine that cannot answer is an engine that is not ready.
        return False
    return status == 200
