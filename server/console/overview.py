"""The first page: the policy in force, who applies it, and what was changed last."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from server.console.errors import ApiRefused
from server.console.visit import Visit

_LATEST = 8


async def show(visit: Visit) -> Response:
    """The overview."""
    generation = await ruling(visit)
    jobs = (await visit.api.get("jobs", limit=_LATEST)).body["jobs"]
    return visit.page("overview.html", generation=generation, jobs=jobs)


async def ruling(visit: Visit) -> dict[str, Any] | None:
    """The generation in force; None before the first."""
    try:
        found: dict[str, Any] = (await visit.api.get("generation")).body
    except ApiRefused as error:
        if error.status == 503:
            return None
        raise
    return found
