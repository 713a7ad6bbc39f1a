"""The admin API as the console calls it: in this process, with the key of whoever is logged in.

The console has no rights of its own. Every page is made of answers of the same routes that a key
opens over HTTP, so roles, records of the audit and errors are theirs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import httpx
from starlette.types import ASGIApp

from server.admin_parts import PREFIX
from server.console.errors import ApiRefused, LoggedOut
from server.errors import NotFound, PreconditionFailed

# Ids, numbers and verbs; what is no segment of a path of the API is not looked for.
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}", re.ASCII)
_ETAG = re.compile(r"[\x21-\x7e]*")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API said; `etag` is empty where it gave none."""

    body: Any
    etag: str = ""


class AdminApi:
    """Calls the admin application with one key."""

    def __init__(self, app: ASGIApp, authorization: str) -> None:
        self._app = app
        self._headers = {"authorization": authorization}

    async def get(self, *parts: str, **query: Any) -> Answer:
        """Read a resource; `parts` are the segments of its path, `query` without what is None."""
        return await self._ask("GET", parts, query=query)

    async def send(
        self, method: str, *parts: str, body: Any = None, etag: str | None = None
    ) -> Answer:
        """Change something; `etag` is the revision that is to be changed."""
        return await self._ask(method, parts, body=body, etag=etag)

    async def _ask(
        self,
        method: str,
        parts: tuple[str, ...],
        *,
        query: dict[str, Any] | None = None,
        body: Any = None,
        etag: str | None = None,
    ) -> Answer:
        if not all(map(_PART.fullmatch, parts)):
            raise NotFound("There is no such resource.")
        if etag is not None and not _ETAG.fullmatch(etag):
            raise PreconditionFailed("The target has been changed: read it again.")
        path = "/".join([PREFIX, *parts])
        headers = self._headers | ({"if-match": etag} if etag else {})
        params = {name: value for name, value in (query or {}).items() if value is not None}
        client = httpx.AsyncClient(
            transport=httpx.ASGITransport(self._app), base_url="http://console", trust_env=False
        )
        async with client:
            response = await client.request(method, path, params=params, json=body, headers=headers)
        if response.status_code == 401:
            raise LoggedOut
        refuse_errors(response)
        return Answer(response.json(), response.headers.get("etag", ""))


def refuse_errors(response: httpx.Response) -> None:
    """Refuse an answer that is an error, as the console's own.

    Raises:
        ApiRefused: with its status and what it says.
    """
    if response.is_success:
        return
    try:
        told = response.json()["error"]
        message, param = str(told["message"]), told.get("param")
    except (ValueError, LookupError, TypeError, AttributeError):
        message, param = "The server's answer cannot be read.", None
    raise ApiRefused(response.status_code, message, param=param)
