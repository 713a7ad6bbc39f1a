"""The revisions of a target: what changed between two, and the way back."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from server.console.visit import Visit
from server.errors import InvalidField


async def show(visit: Visit) -> Response:
    """All kept revisions and, between `from` and `to`, what changed."""
    target_id = visit.id("target_id")
    listed = (await visit.api.get("targets", target_id, "versions")).body["versions"]
    etag = (await visit.api.get("targets", target_id)).etag if visit.is_admin else ""
    before, after = visit.query("from"), visit.query("to")
    diff: dict[str, Any] | None = None
    if before is not None:
        query = {"from": before, "to": after}
        diff = (await visit.api.get("targets", target_id, "versions:diff", **query)).body
    return visit.page("versions.html", id=target_id, versions=listed, etag=etag, diff=diff)


async def roll_back(visit: Visit) -> Response:
    """Make a kept revision the newest again."""
    target_id, revision = visit.id("target_id"), visit.form.text("revision")
    if not revision.isdecimal():
        raise InvalidField("revision: must be a number", param="revision")
    answer = await visit.api.send(
        "POST",
        "targets",
        target_id,
        "versions",
        f"{revision}:rollback",
        body={},
        etag=visit.form.text("etag"),
    )
    return visit.to(f"/console/targets/{target_id}?job={answer.body['job']['id']}")
