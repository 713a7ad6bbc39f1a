"""Errors of the console, under those of the server that they look like.

Unauthorized
└── LoggedOut       there is no session, or its key is no longer good
Forbidden
└── ForeignForm     a form that was not sent by a page of this console
ClientFault
└── ApiRefused      the admin API or the guarded endpoint answered with an error
NotReady
└── EndpointSilent  the guarded endpoint does not answer

Messages are those that the admin API gives, and hold no forget text.
"""

from __future__ import annotations

from server.errors import ClientFault, Forbidden, NotReady, Unauthorized


class LoggedOut(Unauthorized):
    """There is no session, or its key is no longer good."""


class ForeignForm(Forbidden):
    """A form that was not sent by a page of this console."""


class ApiRefused(ClientFault):
    """The admin API or the guarded endpoint answered with an error of this status."""

    def __init__(self, status: int, message: str, *, param: str | None = None) -> None:
        super().__init__(message, param=param)
        self.status = status


class EndpointSilent(NotReady):
    """The guarded endpoint does not answer."""
