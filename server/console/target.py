"""One target: what it is, what was made of it, and what can be done with it."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response

from server.console.errors import ApiRefused
from server.console.lists import FINAL
from server.console.statistics import statistics
from server.console.visit import Visit
from server.errors import MalformedBody
from server.request_body import parse_object

_PHRASES = 500


async def show(visit: Visit) -> Response:
    """The target with what it did, its phrases, from number `from` on, and its calibration."""
    target_id = visit.id("target_id")
    # Before the target, which then shows what a job that is done has made of it.
    job = await _job(visit)
    answer = await visit.api.get("targets", target_id)
    listed = (await visit.api.get("targets", target_id, "phrases")).body
    first = _number(visit.query("from"))
    rows = listed["phrases"][first : first + _PHRASES]
    left = first + _PHRASES < len(listed["phrases"])
    report = answer.body["report"] or {}
    return visit.page(
        "target.html",
        target=answer.body,
        document=answer.body["target"],
        etag=answer.etag,
        listed=listed,
        rows=rows,
        first=first,
        next=first + _PHRASES if left else None,
        calibration=report.get("calibration"),
        names=report.get("names") or [],
        statistics=await statistics(visit),
        job=job,
        final=FINAL,
    )


async def show_edit(visit: Visit) -> Response:
    """The whole document as JSON, to be changed."""
    answer = await visit.api.get("targets", visit.id("target_id"))
    text = json.dumps(answer.body["target"], indent=2, ensure_ascii=False)
    return _editor(visit, text, answer.etag, None)


async def replace(visit: Visit) -> Response:
    """Replace the target by the document of the form, if nobody else has changed it meanwhile."""
    target_id, text, etag = (
        visit.id("target_id"),
        visit.form.text("document"),
        visit.form.text("etag"),
    )
    try:
        document = parse_object(text.encode("utf-8", "surrogatepass"))
        answer = await visit.api.send("PUT", "targets", target_id, body=document, etag=etag)
    except (MalformedBody, ApiRefused) as error:
        return _editor(visit, text, etag, error)
    return _accepted(visit, answer.body)


async def set_enforcement(visit: Visit) -> Response:
    """Enforce the target, or only observe what it would do."""
    patch = {"enforcement": visit.form.text("enforcement")}
    etag = visit.form.text("etag")
    answer = await visit.api.send("PATCH", "targets", visit.id("target_id"), body=patch, etag=etag)
    return _accepted(visit, answer.body)


async def show_delete(visit: Visit) -> Response:
    """Asks whether the target is really to be withdrawn."""
    answer = await visit.api.get("targets", visit.id("target_id"))
    return visit.page("delete_target.html", target=answer.body, etag=answer.etag)


async def withdraw(visit: Visit) -> Response:
    """Withdraw the target."""
    etag = visit.form.text("etag")
    answer = await visit.api.send("DELETE", "targets", visit.id("target_id"), etag=etag)
    return visit.to(f"/console/jobs/{answer.body['job']['id']}")


def _accepted(visit: Visit, body: dict[str, Any]) -> Response:
    return visit.to(f"/console/targets/{body['target']['id']}?job={body['job']['id']}")


def _editor(
    visit: Visit, text: str, etag: str, error: MalformedBody | ApiRefused | None
) -> Response:
    status = error.status if isinstance(error, ApiRefused) else 200 if error is None else 422
    told = None if error is None else str(error)
    target_id = visit.id("target_id")
    return visit.page("edit_target.html", status, id=target_id, text=text, etag=etag, error=told)


async def _job(visit: Visit) -> dict[str, Any] | None:
    """The job whose end the page waits for; None where the address names none."""
    wanted = visit.query("job")
    if wanted is None:
        return None
    try:
        job: dict[str, Any] = (await visit.api.get("jobs", wanted)).body
    except ApiRefused:
        return None
    return job


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() and len(text) < 9 else 0
