"""The body of a request, read once and strictly.

The engine parses the body again with its own reader, so everything that two JSON readers could take
differently is refused: repeated keys, other encodings than UTF-8, lone surrogates, NaN and
infinities. What was understood here is then what the engine understands.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from typing import Any, NoReturn

from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive, Scope

from server.errors import BodyTooLarge, MalformedBody, UnsupportedMediaType


def require_json(scope: Scope, *, patch: bool = False) -> None:
    """Check the declared type; `patch` also takes a JSON merge patch.

    Raises:
        UnsupportedMediaType: it is not application/json.
    """
    types = ("application/json", "application/merge-patch+json" if patch else None)
    declared = header(scope, b"content-type") or ""
    if declared.partition(";")[0].strip().lower() not in types:
        raise UnsupportedMediaType("The body must be declared as application/json.")


def header(scope: Scope, name: bytes) -> str | None:
    """The first header of a (lower-case) name."""
    value = next((v for k, v in scope["headers"] if k == name), None)
    return None if value is None else bytes(value).decode("latin-1")


async def body_chunks(request: Request) -> AsyncIterator[bytes]:
    """A long body as it comes.

    Raises:
        MalformedBody: the client left before its end.
    """
    try:
        async for chunk in request.stream():
            yield chunk
    except ClientDisconnect:
        raise MalformedBody("The body ended early.") from None


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes | None:
    """The whole body; None when the client left before its end.

    Raises:
        BodyTooLarge: it is longer than `limit` bytes; nothing beyond that is kept.
    """
    declared = header(scope, b"content-length")
    if declared is not None and declared.isdecimal() and int(declared) > limit:
        raise BodyTooLarge(f"The body is longer than {limit} bytes.")
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > limit:
            raise BodyTooLarge(f"The body is longer than {limit} bytes.")
        if not message.get("more_body", False):
            return bytes(body)


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body once and then what the connection says (a disconnect)."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return pending.pop() if pending else await receive()

    return receive_again


def parse_object(body: bytes) -> dict[str, Any]:
    """A body as a JSON object.

    Raises:
        MalformedBody: it is not one, or not one that every reader takes alike.
    """
    try:
        text = body.decode("utf-8")
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_not_a_number,
            parse_float=_finite,
        )
        # A lone surrogate can be written as an escape; no tokenizer takes it.
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError:
        raise MalformedBody("The body is not UTF-8.") from None
    except UnicodeEncodeError:
        raise MalformedBody("The body holds a lone surrogate.") from None
    except json.JSONDecodeError:
        raise MalformedBody("The body is not JSON.") from None
    except RecursionError:
        raise MalformedBody("The body is nested too deeply.") from None
    except ValueError:  # an integer of thousands of digits
        raise MalformedBody("The body holds a number that is too large.") from None
    if not isinstance(value, dict):
        raise MalformedBody("The body is not a JSON object.")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise MalformedBody("The body repeats a key.")
    return found


def _not_a_number(_name: str) -> NoReturn:
    raise MalformedBody("The body holds NaN or Infinity.")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise MalformedBody("The body holds a number that is too large.")
    return value
