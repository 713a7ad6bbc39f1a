"""The outermost layer of the admin API: who may send a body, which bodies, and no stray exceptions.

Plain ASGI. What passes is a JSON object that every reader takes alike, so the application behind
only has to judge its fields. An unexpected exception ends here without its message being logged.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.error_table import reply_to
from server.errors import MalformedBody, ServerError
from server.log import fault_fields, get_logger
from server.request_body import parse_object, read_body, replay, require_json

log = get_logger("admin")

_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})


class BodyGuard:
    """Lets a request through only with a body that is fit to be parsed.

    `admit` is given the request before its body is read and raises for strangers.
    `streams` says which requests' bodies the application reads itself, after asking who sends them
    and with its own bound, `routes` whether the application has such a resource with such a method:
    what it has not it says itself, whatever the body.
    """

    def __init__(
        self,
        app: ASGIApp,
        max_bytes: int,
        admit: Callable[[Scope], object],
        streams: Callable[[Scope], bool] = lambda scope: False,
        routes: Callable[[Scope], bool] = lambda scope: True,
    ) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._admit = admit
        self._streams = streams
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def noting_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            if scope["method"] in _WITH_BODY and self._routes(scope):
                receive = await self._checked(scope, receive)
            await self._app(scope, receive, noting_send)
        except Exception as error:
            if not isinstance(error, ServerError):
                log.error("unexpected_fault", path=scope["path"], **fault_fields(error))
            if started:
                raise ConnectionAbortedError from None
            await error_response(error)(scope, receive, send)

    async def _checked(self, scope: Scope, receive: Receive) -> Receive:
        if self._streams(scope):
            return receive
        self._admit(scope)
        require_json(scope, patch=scope["method"] == "PATCH")
        body = await read_body(scope, receive, self._max_bytes)
        if body is None:
            raise MalformedBody("The body ended early.")
        parse_object(body)
        return replay(body, receive)


def error_response(error: BaseException) -> JSONResponse:
    """Any error as OpenAI's JSON error."""
    reply = reply_to(error)
    return JSONResponse(reply.body, status_code=reply.status, headers=dict(reply.headers))
