"""The console as an application, and its place on the admin port.

It stands outside the layers of the admin API, which take JSON and bearer keys; it takes forms and a
cookie, and calls them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.console import (
    lists,
    login,
    nodes,
    overview,
    phrases,
    playground,
    render,
    statistics,
    target,
    targets,
    versions,
)
from server.console.attempts import Attempts
from server.console.sessions import Sessions
from server.console.visit import HOME, LOGIN, Page, error_page, visited
from server.errors import MethodNotAllowed, NotFound

if TYPE_CHECKING:
    from server.admin_parts import Control

ROOT = "/console"
_READ: dict[str, Page] = {
    "/": overview.show,
    "/targets": targets.show,
    "/new-target": targets.show_new,
    "/targets/{target_id}": target.show,
    "/targets/{target_id}/edit": target.show_edit,
    "/targets/{target_id}/delete": target.show_delete,
    "/targets/{target_id}/statistics": statistics.show,
    "/targets/{target_id}/versions": versions.show,
    "/playground": playground.show,
    "/generations": lists.show_generations,
    "/nodes": nodes.show,
    "/nodes/{node_id}/fence": nodes.show_fence,
    "/nodes/{node_id}/unfence": nodes.show_unfence,
    "/jobs": lists.show_jobs,
    "/jobs/{job_id}": lists.show_job,
    "/jobs/{job_id}/state": lists.job_state,
    "/corpora": lists.show_corpora,
    "/keys": lists.show_keys,
    "/audit": lists.show_audit,
}
_CHANGE: dict[str, Page] = {
    "/new-target": targets.create,
    "/targets/{target_id}/edit": target.replace,
    "/targets/{target_id}/enforcement": target.set_enforcement,
    "/targets/{target_id}/delete": target.withdraw,
    "/targets/{target_id}/phrases": phrases.edit,
    "/targets/{target_id}/rollback": versions.roll_back,
    "/playground": playground.check,
    "/nodes/{node_id}/fence": nodes.fence,
    "/nodes/{node_id}/unfence": nodes.unfence,
    "/jobs/{job_id}/cancel": lists.cancel_job,
    "/logout": login.log_out,
}


@dataclass(frozen=True, slots=True)
class ConsoleOptions:
    """Where the guarded endpoint is, which the playground asks, and the longest form in bytes."""

    endpoint_url: str
    max_form_bytes: int


def create_console(admin: ASGIApp, control: Control, options: ConsoleOptions) -> Starlette:
    """Build the console of an admin application."""
    size = options.max_form_bytes
    routes = [Route(ROOT + path, visited(page, size)) for path, page in _READ.items()]
    routes += [
        Route(ROOT + path, visited(page, size), methods=["POST"]) for path, page in _CHANGE.items()
    ]
    routes += [
        Route(ROOT, _home),
        Route(LOGIN, login.show),
        Route(LOGIN, login.log_in, methods=["POST"]),
        Route(ROOT + "/static/{name}", _static),
    ]
    errors = {
        404: lambda request, _: error_page(request, NotFound("There is no such page.")),
        405: lambda request, _: error_page(request, MethodNotAllowed("That cannot be done here.")),
    }
    app = Starlette(routes=routes, exception_handlers=errors)
    app.router.redirect_slashes = False
    app.state.admin, app.state.control = admin, control
    app.state.endpoint_url = options.endpoint_url
    app.state.sessions, app.state.attempts = Sessions(), Attempts()
    return app


async def _home(_request: Request) -> Response:
    return RedirectResponse(HOME, 303)


async def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in render.STATIC:
        return error_page(request, NotFound("There is no such file."))
    kept = {"cache-control": "public, max-age=31536000, immutable"}
    return Response(render.static(name), media_type=render.STATIC[name], headers=kept)


class ConsoleBeside:
    """Hands requests for the console to it, and all others on to the admin API."""

    def __init__(self, app: ASGIApp, console: ASGIApp) -> None:
        self._app, self._console = app, console

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        path = str(scope.get("path", ""))
        if scope["type"] != "http" or not (path == ROOT or path.startswith(ROOT + "/")):
            await self._app(scope, receive, send)
            return

        async def locked_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in render.HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._console(scope, receive, locked_send)
