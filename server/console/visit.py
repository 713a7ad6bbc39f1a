"""One request of somebody who is logged in: who it is, what they may do, and the page they get.

Every page of the console goes through `visited`, which lets nobody in without a session and no
form through without its token; a page cannot forget to ask.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from server.auth import Caller, KeyRing, Role
from server.console import render
from server.console.api import AdminApi
from server.console.endpoint import GuardedEndpoint
from server.console.errors import ApiRefused, LoggedOut
from server.console.forms import Form, read_form, require_same_origin, require_token
from server.console.sessions import Session, Sessions
from server.error_table import row_of
from server.errors import ServerError, Unauthorized
from server.log import fault_fields, get_logger

HOME = "/console/"
LOGIN = "/console/login"
COOKIE = "lethegate_console"
COOKIE_PATH = "/console"

log = get_logger("console")


@dataclass(frozen=True, slots=True)
class Visit:
    """A request with its session. `form` is empty unless something was sent."""

    request: Request
    session: Session
    caller: Caller
    api: AdminApi
    endpoint: GuardedEndpoint
    form: Form

    @property
    def is_admin(self) -> bool:
        """Whether the pages show forget text and buttons; the API decides by itself."""
        return self.caller.role >= Role.ADMIN

    def id(self, name: str) -> str:
        """An id in the path."""
        return str(self.request.path_params[name])

    def query(self, name: str) -> str | None:
        """A query parameter, or None if it is missing or empty."""
        return self.request.query_params.get(name) or None

    def page(self, template: str, status: int = 200, **values: Any) -> Response:
        """A page with the console's frame."""
        frame = {"csrf": self.session.csrf, "admin": self.is_admin, "caller": self.caller}
        return render.page(template, status, **frame, **values)

    def to(self, path: str) -> Response:
        """Go on to a page after a form; a reload does not send the form again."""
        return RedirectResponse(path, 303)


Page = Callable[[Visit], Awaitable[Response]]
Handler = Callable[[Request], Awaitable[Response]]


def visited(page: Page, max_form_bytes: int) -> Handler:
    """A page as a route's handler, for those who are logged in."""

    async def handle(request: Request) -> Response:
        visit: Visit | None = None
        try:
            visit = await _visit(request, max_form_bytes)
            return await page(visit)
        except LoggedOut:
            return _log_in(request)
        except Exception as error:
            return error_page(request, error, visit)

    return handle


async def _visit(request: Request, max_form_bytes: int) -> Visit:
    """Who asks, and what they sent.

    Raises:
        LoggedOut: no session, or its key is no longer good.
        ForeignForm: the form is not one of this session's.
    """
    state = request.app.state
    sessions: Sessions = state.sessions
    keyring: KeyRing = state.control.keyring
    session = sessions.find(request.cookies.get(COOKIE, ""))
    if session is None:
        raise LoggedOut
    try:
        caller = keyring.require(session.authorization, Role.AUDITOR)
    except Unauthorized:
        sessions.close(session.token)
        raise LoggedOut from None
    form = Form({})
    if request.method == "POST":
        require_same_origin(request)
        form = await read_form(request, max_form_bytes)
        require_token(form, session.csrf)
    api = AdminApi(state.admin, session.authorization)
    client_key = form.text("client_key").strip()
    endpoint = GuardedEndpoint(state.endpoint_url, keyring, session.authorization, client_key)
    return Visit(request, session, caller, api, endpoint, form)


def _log_in(request: Request) -> Response:
    if request.path_params.keys() == {"job_id"} and request.url.path.endswith("/state"):
        # Asked for by a script.
        return Response(status_code=401)
    response = RedirectResponse(LOGIN, 303)
    response.delete_cookie(COOKIE, COOKIE_PATH)
    return response


def status_of(error: BaseException) -> int:
    """The HTTP status of an error's page."""
    return error.status if isinstance(error, ApiRefused) else row_of(error).status


def message_of(error: BaseException) -> str:
    """What a page says of an error: of a foreign one nothing, since it may hold any text."""
    row = row_of(error)
    told = str(error) if isinstance(error, ServerError) else ""
    return row.message or told or "The server failed to process the request."


def error_page(request: Request, error: Exception, visit: Visit | None = None) -> Response:
    """A page that says what went wrong."""
    if not isinstance(error, ServerError):
        log.error("unexpected_fault", path=COOKIE_PATH, **fault_fields(error))
    status, message = status_of(error), message_of(error)
    headers = {}
    if isinstance(error, ServerError) and error.retry_after_seconds is not None:
        headers["retry-after"] = str(error.retry_after_seconds)
    values = {"title": _TITLES.get(status, "That did not work"), "message": message}
    if visit is None:
        response: Response = render.page("stranger.html", status, **values)
    else:
        response = visit.page("error.html", status, unchanged=status < 500, **values)
    response.headers.update(headers)
    return response


_TITLES = {
    403: "Not allowed",
    404: "Not found",
    409: "Not now",
    412: "Changed meanwhile",
    413: "Too long",
    422: "Not valid",
    429: "Too many attempts",
    503: "Not ready",
}
