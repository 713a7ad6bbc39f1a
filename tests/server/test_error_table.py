"""How errors look to a client."""

from __future__ import annotations

import pytest

from guard.errors import CompileError, SnapshotCorrupt
from server.error_table import error_body, reply_to, row_of
from server.errors import InvalidField, NotReady, Overloaded, Unauthorized


def test_shape() -> None:
    """An error has OpenAI's four keys, and a field at fault is named."""
    reply = reply_to(InvalidField("id: is required", param="id"))

    assert reply.status == 422
    assert reply.body == error_body(
        "id: is required", "invalid_request_error", "invalid_field", "id"
    )


def test_foreign_exceptions_keep_their_message() -> None:
    """What another library says may hold a client's text, so it is replaced."""
    reply = reply_to(KeyError("Port Sorrel"))

    assert reply.status == 500
    assert "Port Sorrel" not in str(reply.body)


def test_guard_errors_are_unavailability() -> None:
    """A guard that cannot work is a 503 with its own code and a time to come back."""
    reply = reply_to(SnapshotCorrupt("manifest of abc"))

    assert (reply.status, reply.body["error"]["code"]) == (503, "guard_unavailable")
    assert reply.headers["retry-after"] == "1"


def test_headers() -> None:
    """401 asks for a bearer key; 503 says when to come back."""
    assert reply_to(Unauthorized("no key")).headers == {"www-authenticate": "Bearer"}
    assert reply_to(Overloaded("full", retry_after_seconds=7)).headers == {"retry-after": "7"}


@pytest.mark.parametrize("error", [NotReady(), CompileError()])
def test_a_message_is_never_empty(error: Exception) -> None:
    """An error without a message still says something."""
    assert reply_to(error).body["error"]["message"]


def test_subclasses_take_their_nearest_row() -> None:
    """A class without a row of its own is mapped like its base."""

    class Special(NotReady):
        """Made up."""

    assert row_of(Special()) == row_of(NotReady())
