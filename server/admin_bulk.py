"""The admin API's part about many targets at once: import, export and validation, as JSON lines."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel
from starlette.responses import StreamingResponse
from starlette.types import Scope

from server.admin_parts import PREFIX, Control, Here, Own, OwnAdmin, check_target
from server.errors import InvalidField, UnsupportedMediaType
from server.on_conflict import OnConflict
from server.request_body import body_chunks, header
from server.resources import JobOut
from server.target_lines import TargetLines

router = APIRouter(tags=["targets"])

NDJSON = "application/x-ndjson"
_TYPES = frozenset({NDJSON, "application/ndjson", "application/jsonl"})
_PATHS = frozenset({f"{PREFIX}/targets:import", f"{PREFIX}/targets:validate"})
_PAGE = 200
_CHUNK_BYTES = 1 << 20
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {NDJSON: {"schema": {"type": "string", "description": "A target per line."}}},
    }
}


class ImportOut(BaseModel):
    """What an import stored; `job` brings it into force, and is null if there was nothing."""

    registered: int
    replaced: int
    skipped: int
    job: JobOut | None


class ProblemOut(BaseModel):
    """What is wrong with a line; lines count from 1."""

    line: int
    param: str | None
    message: str


class ValidationOut(BaseModel):
    """What an import of these lines would find; of more than 100 problems the first are told."""

    targets: int
    existing: int
    num_problems: int
    problems: list[ProblemOut]


def reads_lines(scope: Scope) -> bool:
    """Whether a request's body is JSON lines of targets, which its handler reads itself."""
    return scope["path"] in _PATHS


@router.post("/targets:import", status_code=202, openapi_extra=_BODY)
async def import_targets(
    request: Request,
    here: Here,
    own: OwnAdmin,
    on_conflict: Annotated[
        OnConflict, Query(description="What becomes of a target whose id is registered.")
    ] = OnConflict.FAIL,
) -> ImportOut:
    """Register many targets, all or none, with one job and one compilation."""
    lines = await _read(request, here)
    lines.refuse_problems()
    stored = await asyncio.to_thread(own.store.import_targets, lines.targets, on_conflict)
    here.worker.notify()
    job = None if stored.job is None else stored.job.to_out()
    return ImportOut(
        registered=stored.registered, replaced=stored.replaced, skipped=stored.skipped, job=job
    )


@router.post("/targets:validate", openapi_extra=_BODY)
async def validate_targets(request: Request, here: Here, own: OwnAdmin) -> ValidationOut:
    """Check many targets line by line; stores nothing."""
    lines = await _read(request, here)
    ids = [target.id for target in lines.targets.values()]
    existing = await asyncio.to_thread(own.store.count_existing, ids)
    return ValidationOut(
        targets=len(ids),
        existing=existing,
        num_problems=lines.num_problems,
        problems=[
            ProblemOut(line=p.line, param=p.param, message=p.message) for p in lines.problems
        ],
    )


@router.get(
    "/targets:export",
    response_class=StreamingResponse,
    responses={200: {"content": {NDJSON: {"schema": {"type": "string"}}}}},
)
def export_targets(own: OwnAdmin) -> StreamingResponse:
    """Every target's newest revision as JSON lines, as an import takes them, by id."""
    return StreamingResponse(_lines(own), media_type=NDJSON)


def _lines(own: Own) -> Iterator[bytes]:
    after: str | None = None
    while page := own.store.document_page(after, _PAGE):
        yield b"".join(json.dumps(document).encode() + b"\n" for _, document in page)
        after = page[-1][0]


async def _read(request: Request, here: Control) -> TargetLines:
    """The lines of a body, checked in a thread as they come."""
    declared = (header(request.scope, b"content-type") or "").partition(";")[0].strip().lower()
    if declared not in _TYPES:
        raise UnsupportedMediaType(f"The body must be declared as {NDJSON}.")
    lines, buffer = TargetLines(), bytearray()
    async for chunk in body_chunks(request):
        buffer += chunk
        if len(buffer) >= _CHUNK_BYTES:
            await asyncio.to_thread(lines.feed, bytes(buffer))
            buffer.clear()
    await asyncio.to_thread(lines.feed, bytes(buffer))
    await asyncio.to_thread(_finish, lines, here)
    return lines


def _finish(lines: TargetLines, here: Control) -> None:
    lines.end()
    for line, target in lines.targets.items():
        try:
            check_target(here, target)
        except InvalidField as fault:
            lines.note(line, fault)
