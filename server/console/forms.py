"""Forms as browsers send them: read with a bound, and only from pages of this console."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from starlette.requests import Request

from server.console.errors import ForeignForm, LoggedOut
from server.errors import MalformedBody, UnsupportedMediaType
from server.request_body import header, read_body

_MOST_FIELDS = 50_000
_TYPE = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class Form:
    """The fields of a form, each as often as it was sent; lines end in a line feed."""

    fields: Mapping[str, Sequence[str]]

    def text(self, name: str) -> str:
        """A field, or nothing."""
        return next(iter(self.all(name)), "")

    def all(self, name: str) -> list[str]:
        """A field that may be there several times."""
        return [value.replace("\r\n", "\n") for value in self.fields.get(name, ())]

    def lines(self, name: str) -> list[str]:
        """The lines of a field that hold something."""
        return [line.strip() for line in self.text(name).split("\n") if line.strip()]


async def read_form(request: Request, max_bytes: int) -> Form:
    """The form of a request.

    Raises:
        UnsupportedMediaType: it is not declared as one.
        BodyTooLarge: it is longer than `max_bytes`.
        MalformedBody: it is not UTF-8, or has too many fields.
        LoggedOut: the browser left before its end.
    """
    declared = (header(request.scope, b"content-type") or "").partition(";")[0].strip().lower()
    if declared != _TYPE:
        raise UnsupportedMediaType(f"The form must be declared as {_TYPE}.")
    body = await read_body(request.scope, request.receive, max_bytes)
    if body is None:
        raise LoggedOut
    try:
        fields = parse_qs(
            body.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=_MOST_FIELDS,
        )
    except ValueError:
        raise MalformedBody("The form cannot be read.") from None
    return Form(fields)


def require_same_origin(request: Request) -> None:
    """Refuse a form that a browser sent from another page.

    Ports do not tell sites apart, neither for cookies nor for SameSite, so that another server of
    this machine is told apart only here and by the token in the form.

    Raises:
        ForeignForm: the browser says so.
    """
    origin, host = request.headers.get("origin"), request.headers.get("host", "")
    if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
        raise ForeignForm("The form was not sent by this console.")
    if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        raise ForeignForm("The form was not sent by this console.")


def require_token(form: Form, token: str) -> None:
    """Refuse a form that does not carry the session's token.

    Raises:
        ForeignForm: it carries none, or another one.
    """
    if not hmac.compare_digest(form.text("csrf").encode(), token.encode()):
        raise ForeignForm("The form is not of this session: load the page again.")
