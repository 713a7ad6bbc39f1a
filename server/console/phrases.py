"""The form that adds and strikes phrases of a target."""

from __future__ import annotations

from starlette.responses import Response

from server.console.visit import Visit


async def edit(visit: Visit) -> Response:
    """Forbid the lines of the form, and let be said again what was ticked."""
    words = not visit.form.text("anywhere")
    body = {
        "add": [{"text": text, "whole_word": words} for text in visit.form.lines("add")],
        "strike": visit.form.all("strike"),
    }
    target_id, etag = visit.id("target_id"), visit.form.text("etag")
    answer = await visit.api.send("POST", "targets", target_id, "phrases", body=body, etag=etag)
    return visit.to(f"/console/targets/{target_id}?job={answer.body['job']['id']}")
