"""The admin API of corpora. Document text leaves only to admins."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path as FolderPath
from typing import TYPE_CHECKING, Annotated
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.responses import HTMLResponse
from starlette.types import Scope

from server.access import Admin, Auditor
from server.audit.acts import record_act
from server.audit.writer import Recorder
from server.auth import KeyRing, Role, refuse_tenants
from server.error_table import row_of
from server.errors import BodyTooLarge, Conflict, MalformedBody, NotFound, ServerError
from server.etags import require_match, tagged
from server.parameters import MAX_NUMBER, After, IfMatch, Limit, PathId
from server.provenance import page
from server.provenance.schemas import (
    AdoptIn,
    AttributeIn,
    AttributeOut,
    BlockPage,
    CorpusAccepted,
    CorpusChange,
    CorpusIn,
    CorpusOut,
    CorpusPage,
    DocumentOut,
    DocumentPage,
    DocumentRow,
    DocumentsIn,
)
from server.provenance.uploads import UploadWriter
from server.records import JobRecord, utc
from server.request_body import body_chunks, header, read_body
from server.tables import JobKind
from tracing.errors import UnknownDocument

if TYPE_CHECKING:
    # Searching is compiled code, which the command line need not load.
    from server.provenance.attribution import Attributor
    from server.provenance.audit import AuditLog
    from server.provenance.library import Library
    from server.provenance.overview import Overview
    from server.provenance.registry import Places
    from server.provenance.store import CorpusStore
    from server.provenance.veto import CorpusVeto
    from server.provenance.worker import CorpusWorker

# The types of an upload that is read line by line, beyond the bound of other bodies.
NDJSON = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl"})


@dataclass(frozen=True, slots=True)
class Corpora:
    """What the routes work on."""

    places: Places
    store: CorpusStore
    library: Library
    overview: Overview
    worker: CorpusWorker
    veto: CorpusVeto
    attributor: Attributor
    audit: AuditLog
    max_upload_bytes: int
    index_dir: FolderPath | None

    def discard_upload(self, job: JobRecord) -> None:
        """Delete the text that a cancelled job would have added."""
        upload = self.store.upload_of(job)
        if upload is not None:
            (self.places.uploads / upload).unlink(missing_ok=True)


def _corpora(request: Request) -> Corpora:
    control = request.app.state.control
    control.require_lead()
    corpora: Corpora = control.corpora.result()
    return corpora


Here = Annotated[Corpora, Depends(_corpora)]
Number = Annotated[int, Path(ge=0, le=MAX_NUMBER)]

router = APIRouter(tags=["corpora"])
page_router = APIRouter()


@router.post("/corpora", status_code=202, responses=tagged(202))
def create_corpus(corpus: CorpusIn, here: Here, role: Admin, response: Response) -> CorpusAccepted:
    """Register a corpus; documents are added to it afterwards."""
    job = here.store.create(corpus)
    response.headers["location"] = f"/admin/v1/corpora/{corpus.id}"
    response.headers["etag"] = here.store.corpus(corpus.id).etag
    return _accepted(here, corpus.id, job)


@router.get("/corpora")
def list_corpora(here: Here, role: Auditor, limit: Limit = 100, after: After = None) -> CorpusPage:
    """List corpora by id."""
    found = here.store.page(after, limit + 1)
    page = here.overview.of(found[:limit], described=role >= Role.ADMIN)
    return CorpusPage(corpora=page, next=page[-1].id if len(found) > limit else None)


@router.get("/corpora/{corpus_id:id}", responses=tagged())
def get_corpus(corpus_id: PathId, here: Here, role: Auditor, response: Response) -> CorpusOut:
    """One corpus with its status, sizes and threshold; its ETag is that of its settings."""
    record = here.store.corpus(corpus_id)
    response.headers["etag"] = record.etag
    return here.overview.of([record], described=role >= Role.ADMIN)[0]


@router.patch("/corpora/{corpus_id:id}", status_code=202, responses=tagged(202))
def change_corpus(
    corpus_id: PathId,
    change: CorpusChange,
    here: Here,
    role: Admin,
    response: Response,
    if_match: IfMatch = None,
) -> CorpusAccepted:
    """Change a corpus's settings; its index stays as it is, its threshold is calibrated anew."""

    def changed(corpus: CorpusIn) -> CorpusIn:
        with _as_body():
            return change.of(corpus)

    record = here.store.corpus(corpus_id)
    require_match(record.etag, if_match, "corpus")
    here.veto.require_room(replace(record, settings=changed(record.settings)))
    job = here.store.change(corpus_id, changed, if_match)
    response.headers["etag"] = here.store.corpus(corpus_id).etag
    return _accepted(here, corpus_id, job)


@router.delete("/corpora/{corpus_id:id}", status_code=202)
def withdraw_corpus(
    corpus_id: PathId, here: Here, role: Admin, if_match: IfMatch = None
) -> CorpusAccepted:
    """Withdraw a corpus with all its documents; they are gone from disk when the job is done."""
    job = here.store.request(JobKind.CORPUS_DELETE, corpus_id, {}, if_match)
    return _accepted(here, corpus_id, job)


@router.post("/corpora/{corpus_id:id}:verify", status_code=202)
def verify_corpus(corpus_id: PathId, here: Here, role: Admin) -> CorpusAccepted:
    """Read a corpus's whole index and compare it with its checksums."""
    return _accepted(here, corpus_id, here.store.request(JobKind.CORPUS_VERIFY, corpus_id, {}))


@router.post("/corpora/{corpus_id:id}:adopt", status_code=202)
def adopt_index(corpus_id: PathId, asked: AdoptIn, here: Here, role: Admin) -> CorpusAccepted:
    """Take over an index that `lethegate index build` made, into a corpus without documents."""
    record = here.store.corpus(corpus_id)
    if here.index_dir is None:
        raise Conflict("The server's settings name no index_dir to take an index from.")
    if here.library.had(record.directory, 0):
        raise Conflict("Only a corpus that never had documents can take over an index.")
    payload = {"index": asked.index}
    return _accepted(here, corpus_id, here.store.request(JobKind.CORPUS_ADOPT, corpus_id, payload))


@router.post(
    "/corpora/{corpus_id:id}/documents",
    status_code=202,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/DocumentsIn"}},
                "application/x-ndjson": {
                    "schema": {"type": "string", "description": "One document per line."}
                },
            },
        }
    },
)
async def add_documents(
    corpus_id: PathId, request: Request, here: Here, role: Admin
) -> CorpusAccepted:
    """Add documents, all or none: a JSON list, or JSON lines streamed as they come."""
    await asyncio.to_thread(here.store.corpus, corpus_id)
    with UploadWriter(here.places.uploads, here.max_upload_bytes) as upload:
        if takes_upload(request.scope):
            await _receive(request, upload)
        else:
            given = await asyncio.to_thread(_parse, await request.body())
            await asyncio.to_thread(upload.add, given.documents)
        name = await asyncio.to_thread(upload.keep)
        payload = {"upload": name, "count": upload.count}
    try:
        job = await asyncio.to_thread(here.store.request, JobKind.CORPUS_ADD, corpus_id, payload)
    except (NotFound, Conflict):
        (here.places.uploads / name).unlink(missing_ok=True)
        raise
    return _accepted(here, corpus_id, job)


@router.get("/corpora/{corpus_id:id}/documents")
def list_documents(
    corpus_id: PathId,
    here: Here,
    role: Auditor,
    limit: Limit = 100,
    after: Annotated[int | None, Query(ge=0, le=MAX_NUMBER)] = None,
) -> DocumentPage:
    """List a corpus's documents by number, without text."""
    found = here.store.documents(corpus_id, after, limit + 1)
    page = [
        DocumentRow(
            number=record.number,
            source=record.source if role >= Role.ADMIN else None,
            characters=record.characters,
            created_at=utc(record.created_at),
        )
        for record in found[:limit]
    ]
    return DocumentPage(documents=page, next=page[-1].number if len(found) > limit else None)


@router.get("/corpora/{corpus_id:id}/documents/{number:id}")
def get_document(corpus_id: PathId, number: Number, here: Here, role: Admin) -> DocumentOut:
    """One document with its text."""
    view = here.library.view(here.store.corpus(corpus_id).directory)
    try:
        if view is None:
            raise UnknownDocument
        document = view.document(number)
    except UnknownDocument:
        raise NotFound("There is no such document.") from None
    return DocumentOut(
        number=number,
        source=document.source,
        metadata=document.metadata,
        text=document.text,
    )


@router.delete("/corpora/{corpus_id:id}/documents/{number:id}", status_code=202)
def withdraw_document(
    corpus_id: PathId,
    number: Number,
    here: Here,
    role: Admin,
    erase: Annotated[bool, Query(description="Gone from disk when the job is done.")] = False,
) -> CorpusAccepted:
    """Withdraw a document; with `erase` also one that was withdrawn without it before."""
    record = here.store.corpus(corpus_id)
    known = here.store.documents(corpus_id, number - 1, 1)
    is_known = bool(known) and known[0].number == number
    # One that was withdrawn before may still be on disk.
    if not is_known and not (erase and here.library.had(record.directory, number)):
        raise NotFound("There is no such document.")
    payload = {"numbers": [number], "erase": erase}
    job = here.store.request(JobKind.CORPUS_WITHDRAW, corpus_id, payload)
    return _accepted(here, corpus_id, job)


@router.post("/provenance:attribute", responses={404: {}})
def attribute(asked: AttributeIn, here: Here, role: Admin) -> AttributeOut:
    """Where a text comes from: its spans that occur in corpora, with sources and passages."""
    return here.attributor.attribute(asked.text, asked.corpus)


@router.get("/provenance/blocks")
def list_blocks(here: Here, role: Auditor, limit: Limit = 100, after: After = None) -> BlockPage:
    """Answers that were ended for their provenance, newest first; ids and numbers only."""
    found = here.audit.newest(after, limit + 1)
    return BlockPage(
        blocks=found[:limit], next=str(found[limit - 1]["id"]) if len(found) > limit else None
    )


@page_router.get(page.PATH, include_in_schema=False)
def show_page() -> HTMLResponse:
    """The attribution page, empty."""
    return HTMLResponse(page.render_page(), headers=page.HEADERS)


@page_router.get(page.STYLE_PATH, include_in_schema=False)
def show_style() -> Response:
    """The attribution page's style."""
    return Response(page.stylesheet(), media_type="text/css", headers=page.HEADERS)


@page_router.post(page.PATH, include_in_schema=False)
async def show_attribution(request: Request, here: Here) -> HTMLResponse:
    """The attribution page with what was found; the key is a field of its form."""
    try:
        body = await read_body(request.scope, request.receive, page.MAX_FORM_BYTES)
    except BodyTooLarge as error:
        return _page(page.render_page(error=str(error)), row_of(error).status)
    control = request.app.state.control
    return await asyncio.to_thread(_attributed, body or b"", here, control.keyring, control.audit)


def _attributed(body: bytes, here: Corpora, keyring: KeyRing, recorder: Recorder) -> HTMLResponse:
    """The answer to a form, which takes its time."""
    text = ""
    try:
        fields = parse_qs(body.decode(), max_num_fields=8)
        text = "".join(fields.get("text", ())[:1]).replace("\r\n", "\n")
        key = "".join(fields.get("key", ())[:1])
        caller = keyring.require(f"Bearer {key}", Role.ADMIN)
        refuse_tenants(caller)
        recorder.check()
        found = here.attributor.attribute(AttributeIn(text=text).text, None)
    except ValueError:  # of the form, of UTF-8, or of the text
        return _page(page.render_page(error="The text cannot be read."), 422)
    except ServerError as error:
        return _page(page.render_page(text, error=str(error)), row_of(error).status)
    # Its key is no header, by which other acts are recorded.
    record_act(recorder, caller, "POST", page.PATH, 200)
    return _page(page.render_page(text, found), 200)


def _page(content: str, status: int) -> HTMLResponse:
    return HTMLResponse(content, status, headers=page.HEADERS)


def reads_itself(scope: Scope) -> bool:
    """Whether a request's body is not one JSON object: an upload, or the page's form."""
    return takes_upload(scope) or scope["path"] == page.PATH


def takes_upload(scope: Scope) -> bool:
    """Whether a request is an upload that is read line by line."""
    declared = (header(scope, b"content-type") or "").partition(";")[0].strip().lower()
    path = str(scope["path"])
    return declared in NDJSON and "/corpora/" in path and path.endswith("/documents")


async def _receive(request: Request, upload: UploadWriter) -> None:
    """Write a streamed upload as it comes, checking it in a thread."""
    buffer = bytearray()
    async for chunk in body_chunks(request):
        buffer += chunk
        if len(buffer) >= 1 << 20:
            await asyncio.to_thread(upload.feed, bytes(buffer))
            buffer.clear()
    await asyncio.to_thread(upload.feed, bytes(buffer))


def _parse(body: bytes) -> DocumentsIn:
    try:
        with _as_body():
            return DocumentsIn.model_validate_json(body)
    except UnicodeDecodeError:
        raise MalformedBody("The body is not UTF-8.") from None


@contextmanager
def _as_body() -> Iterator[None]:
    """What is invalid in the block is told as a fault of the request's body."""
    try:
        yield
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        raise RequestValidationError(
            [{**problem, "loc": ("body", *problem["loc"])} for problem in problems]
        ) from None


def _accepted(here: Corpora, corpus_id: str, job: JobRecord) -> CorpusAccepted:
    here.worker.notify()
    return CorpusAccepted(corpus_id=corpus_id, job=job.to_out())
