"""`GET /admin/v1/audit`: the audit of this machine, newest first."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel

from server.access import Auditor
from server.audit.files import AuditFiles
from server.parameters import Limit

audit_router = APIRouter(tags=["audit"])
Event = Literal["admin", "decision", "block", "records_lost"]


class AuditPage(BaseModel):
    """A page of records; `next` is the value for `before`, null on the last page."""

    records: list[dict[str, Any]]
    next: int | None


@audit_router.get("/audit")
def list_audit(
    request: Request,
    role: Auditor,
    limit: Limit = 100,
    before: Annotated[int | None, Query(ge=1, description="`next` of the page before.")] = None,
    event: Event | None = None,
) -> AuditPage:
    """What was recorded on this machine: acts, decisions and blocks, without any text."""
    files: AuditFiles = request.app.state.control.audit.files
    found = files.newest(limit + 1, before, event)
    page = found[:limit]
    return AuditPage(records=page, next=page[-1]["sequence"] if len(found) > limit else None)
