"""Pages that list what the API lists: jobs, corpora, keys and the audit."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse, Response

from server.console.overview import ruling
from server.console.visit import Visit

_PAGE = 50
_BLOCKS = 20
_EVENTS = ("admin", "decision", "block", "records_lost")
# What a record of the audit shows in columns of its own, or what only links it.
_COLUMNS = frozenset({"sequence", "at", "event", "key", "prev", "hash"})
FINAL = ("done", "failed", "cancelled")


async def show_jobs(visit: Visit) -> Response:
    """Jobs, newest first."""
    found = (await visit.api.get("jobs", limit=_PAGE, after=visit.query("after"))).body
    return visit.page("jobs.html", jobs=found["jobs"], next=found["next"])


async def show_job(visit: Visit) -> Response:
    """One job."""
    job = (await visit.api.get("jobs", visit.id("job_id"))).body
    return visit.page("job.html", job=job, final=FINAL)


async def job_state(visit: Visit) -> Response:
    """How a job stands, for the script that waits for its end."""
    job = (await visit.api.get("jobs", visit.id("job_id"))).body
    told = f"{job['state']}, {job['progress']:.0%} {job['message']}".strip()
    return JSONResponse({"told": told, "final": job["state"] in FINAL})


async def cancel_job(visit: Visit) -> Response:
    """Cancel a job."""
    job_id = visit.id("job_id")
    await visit.api.send("POST", "jobs", f"{job_id}:cancel", body={})
    return visit.to(f"/console/jobs/{job_id}")


async def show_corpora(visit: Visit) -> Response:
    """Corpora by id."""
    found = (await visit.api.get("corpora", limit=_PAGE, after=visit.query("after"))).body
    blocks = (await visit.api.get("provenance", "blocks", limit=_BLOCKS)).body["blocks"]
    return visit.page("corpora.html", corpora=found["corpora"], next=found["next"], blocks=blocks)


async def show_generations(visit: Visit) -> Response:
    """The generation that rules, who has acknowledged it, and those before it."""
    found = (await visit.api.get("generations", limit=_PAGE, after=visit.query("after"))).body
    return visit.page(
        "generations.html",
        ruling=await ruling(visit),
        generations=found["generations"],
        next=found["next"],
    )


async def show_keys(visit: Visit) -> Response:
    """API keys, oldest first; there are no secrets in them."""
    found = (await visit.api.get("keys", limit=_PAGE, after=visit.query("after"))).body
    return visit.page("keys.html", keys=found["keys"], next=found["next"])


async def show_audit(visit: Visit) -> Response:
    """The audit of this machine, newest first."""
    event, before = visit.query("event"), visit.query("before")
    found = (await visit.api.get("audit", limit=_PAGE, before=before, event=event)).body
    records = [{**record, "details": _details(record)} for record in found["records"]]
    return visit.page(
        "audit.html", records=records, next=found["next"], event=event, events=_EVENTS
    )


def _details(record: dict[str, Any]) -> list[tuple[str, str]]:
    """What a record has beside its columns, as words."""
    told = {name: value for name, value in record.items() if name not in _COLUMNS}
    if record["event"] == "admin":
        told = {record["method"]: record["path"], "status": record["status"]}
    found = told.pop("detections", None) or []
    if "digest" in told:
        told["digest"] = str(told["digest"])[:12]
    pairs = [(name, str(value)) for name, value in told.items() if value is not None]
    for detection in found:
        kept = {name: value for name, value in detection.items() if name != "target"}
        words = ", ".join(f"{name} {value}" for name, value in kept.items())
        pairs.append((str(detection.get("target")), words))
    return pairs
