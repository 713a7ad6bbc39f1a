"""One guarded request, read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from server.apis.api import Api
from server.audit.events import RequestAudit
from server.auth import Caller


@dataclass(frozen=True, slots=True)
class Call:
    """A request's API and body (`raw` as JSON, `body` parsed), who sent it, and its audit."""

    api: Api
    raw: bytes
    body: dict[str, Any]
    caller: Caller
    request_id: str | None
    audit: RequestAudit
