"""Who may call what of the admin API: the roles as FastAPI dependencies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Request

from server.auth import KeyRing, Role


def at_least(minimum: Role) -> Callable[..., Role]:
    """A dependency that gives the caller's role and refuses lesser ones."""

    def check(request: Request) -> Role:
        keyring: KeyRing = request.app.state.control.keyring
        return keyring.require(request.headers.get("authorization"), minimum).role

    return check


Admin = Annotated[Role, Depends(at_least(Role.ADMIN))]
Auditor = Annotated[Role, Depends(at_least(Role.AUDITOR))]
