"""Errors of the bypass suite.

AttackError (a ServerError)
├── ServerSilent    the server under attack does not answer, or lists no model
└── ChecksRefused   it does not tell what it had switched on

Messages never hold what is to be forgotten.
"""

from __future__ import annotations

from server.errors import ServerError


class AttackError(ServerError):
    """Base of the suite's errors."""


class ServerSilent(AttackError):
    """The server under attack does not answer, or lists no model."""


class ChecksRefused(AttackError):
    """The server under attack does not tell what it had switched on."""
