"""Who may call what of the admin API: the roles as FastAPI dependencies.

Keys that are limited to a tenant may call what says so, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Request

from server.auth import Caller, KeyRing, Role, refuse_tenants


def caller_of(request: Request, minimum: Role) -> Caller:
    """Who calls, whatever the tenant.

    Raises:
        Unauthorized, Forbidden, KeysUnreadable: as `KeyRing.require`.
    """
    keyring: KeyRing = request.app.state.control.keyring
    return keyring.require(request.headers.get("authorization"), minimum)


def at_least(minimum: Role) -> Callable[..., Role]:
    """A dependency that gives the caller's role and refuses lesser ones, and tenants."""

    def check(request: Request) -> Role:
        caller = caller_of(request, minimum)
        refuse_tenants(caller)
        return caller.role

    return check


Admin = Annotated[Role, Depends(at_least(Role.ADMIN))]
Auditor = Annotated[Role, Depends(at_least(Role.AUDITOR))]
