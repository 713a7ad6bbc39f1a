"""A response in one piece, ready to be sent."""

from __future__ import annotations

from dataclasses import dataclass

from server.error_table import reply_to
from server.errors import GuardUnavailable
from server.sse import encode_json


@dataclass(frozen=True, slots=True)
class Reply:
    """A response ready to be sent; `headers` are added to those of the engine."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


def reply_of(error: Exception) -> Reply:
    """An error of ours as a response."""
    reply = reply_to(error)
    return Reply(reply.status, encode_json(reply.body), tuple(reply.headers.items()))


def unavailable() -> Reply:
    """The guard could not do its work for this request."""
    return reply_of(GuardUnavailable())
