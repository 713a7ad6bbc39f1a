"""Logging in with a key, and out.

The key comes once, in a form's body, and is never sent back: the browser gets a random token in a
cookie that scripts cannot read and other sites cannot send.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from server.audit.acts import record_act
from server.auth import Caller, Role
from server.console import render
from server.console.attempts import Attempts
from server.console.errors import LoggedOut
from server.console.forms import read_form, require_same_origin
from server.console.sessions import Sessions
from server.console.visit import (
    COOKIE,
    COOKIE_PATH,
    HOME,
    LOGIN,
    Visit,
    error_page,
    message_of,
    status_of,
)
from server.errors import Forbidden, ServerError, Unauthorized
from server.log import get_logger

_MOST_BYTES = 16 * 1024
LOGOUT = "/console/logout"

log = get_logger("console")


async def show(request: Request) -> Response:
    """The form that asks for a key."""
    sessions: Sessions = request.app.state.sessions
    if sessions.find(request.cookies.get(COOKIE, "")) is not None:
        return RedirectResponse(HOME, 303)
    return render.page("login.html", error=None)


async def log_in(request: Request) -> Response:
    """Open a session for a good key of an admin or an auditor."""
    try:
        require_same_origin(request)
        form = await read_form(request, _MOST_BYTES)
        key = form.text("key").strip()
        caller = _known(request, key)
        sessions: Sessions = request.app.state.sessions
        sessions.close(request.cookies.get(COOKIE, ""))
        token = sessions.open(key, caller.id)
    except (LoggedOut, Unauthorized, Forbidden) as error:
        return render.page("login.html", status_of(error), error=_said(error))
    except Exception as error:
        return error_page(request, error)
    _record(request, caller, LOGIN)
    response = RedirectResponse(HOME, 303)
    response.set_cookie(
        COOKIE,
        token,
        path=COOKIE_PATH,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return response


async def log_out(visit: Visit) -> Response:
    """End the session."""
    visit.request.app.state.sessions.close(visit.session.token)
    _record(visit.request, visit.caller, LOGOUT)
    response = visit.to(LOGIN)
    response.delete_cookie(COOKIE, COOKIE_PATH)
    return response


def _known(request: Request, key: str) -> Caller:
    """Whose key it is, unless too many wrong ones were tried."""
    attempts: Attempts = request.app.state.attempts
    address = request.client.host if request.client is not None else ""
    attempts.check(address)
    try:
        if not key.isascii():  # could be in no header
            raise Unauthorized
        caller: Caller = request.app.state.control.keyring.require(f"Bearer {key}", Role.AUDITOR)
    except (Unauthorized, Forbidden):
        attempts.failed(address)
        log.warning("login_failed", address=address)
        raise
    return caller


def _said(error: ServerError) -> str:
    if isinstance(error, Forbidden):
        return message_of(error)
    return "That key is not known."


def _record(request: Request, caller: Caller, path: str) -> None:
    record_act(request.app.state.control.audit, caller, "POST", path, 303)
