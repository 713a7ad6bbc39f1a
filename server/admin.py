"""The admin API: forget targets, the jobs that bring them into force, and the ruling generation.

Handlers are plain functions run in threads, since the store blocks. Forget text leaves only to
admins; every error has OpenAI's shape and names the field, never its value.
"""

from __future__ import annotations

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Match, Route
from starlette.types import Scope

from server.access import Admin, Auditor
from server.admin_bulk import reads_lines
from server.admin_bulk import router as bulk_router
from server.admin_document import AdminApp
from server.admin_parts import (
    PREFIX,
    Control,
    Here,
    OwnAdmin,
    OwnAuditor,
    accepted,
    check_target,
)
from server.admin_phrases import router as phrases_router
from server.admin_versions import router as versions_router
from server.assistant_routes import assistants_router
from server.audit.acts import RecordedActs
from server.audit.routes import audit_router
from server.auth import KeyRing, Role
from server.body import BodyGuard, error_response
from server.console.app import ConsoleBeside, ConsoleOptions, create_console
from server.errors import (
    InvalidField,
    MethodNotAllowed,
    NotFound,
    NotReady,
    ServerError,
    StoreFault,
)
from server.etags import tagged
from server.explain import explain
from server.idempotency import Idempotent
from server.keys.routes import keys_router
from server.nodes.admin_routes import nodes_router
from server.nodes.routes import is_for_nodes, node_router
from server.parameters import After, AfterNumber, IfMatch, Limit, PathId, Search
from server.provenance.page import PATH as PAGE_PATH
from server.provenance.routes import page_router, reads_itself
from server.provenance.routes import router as corpora_router
from server.records import utc
from server.request_body import header
from server.resources import (
    Accepted,
    FollowerOut,
    GenerationOut,
    GenerationPage,
    JobOut,
    JobPage,
    TargetOut,
    TargetPage,
)
from server.schemas import TargetIn
from server.statistics.routes import statistics_router
from server.tables import JobKind
from server.training.routes import router as trainings_router


def create_admin_app(
    control: Control, *, version: str, max_body_bytes: int, console: str | None = None
) -> FastAPI:
    """Build the admin API's application.

    `console`: the URL of the guarded endpoint, for a Web console beside it; None: there is none.
    """
    app = AdminApp(
        takes_replay_key=lambda scope: not _takes_no_key(scope),
        title="Lethegate admin API",
        version=version,
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.control = control
    app.include_router(_targets, prefix=PREFIX)
    app.include_router(versions_router, prefix=PREFIX)
    app.include_router(bulk_router, prefix=PREFIX)
    app.include_router(phrases_router, prefix=PREFIX)
    app.include_router(statistics_router, prefix=PREFIX)
    app.include_router(_jobs, prefix=PREFIX)
    app.include_router(corpora_router, prefix=PREFIX)
    app.include_router(page_router)
    app.include_router(trainings_router, prefix=PREFIX)
    app.include_router(assistants_router, prefix=PREFIX)
    app.include_router(keys_router, prefix=PREFIX)
    app.include_router(audit_router, prefix=PREFIX)
    app.include_router(nodes_router, prefix=PREFIX)
    app.include_router(node_router)
    app.include_router(_probes)
    app.add_exception_handler(ServerError, _on_server_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_middleware(RecordedActs, recorder=control.audit, identify=control.keyring.identify)
    app.add_middleware(
        Idempotent,
        replays=control.store.replays(),
        identify=control.keyring.identify,
        refuses=_takes_no_key,
        max_bytes=max_body_bytes,
    )
    app.add_middleware(
        BodyGuard,
        max_bytes=max_body_bytes,
        admit=lambda scope: _admit(control.keyring, scope),
        streams=lambda scope: reads_itself(scope) or reads_lines(scope),
        routes=lambda scope: scope["method"] in _methods(app, scope),
    )
    if console is not None:
        options = ConsoleOptions(console, max_body_bytes)
        app.add_middleware(ConsoleBeside, console=create_console(app, control, options))
    return app


def _methods(app: FastAPI, scope: Scope) -> set[str]:
    """The methods that the resource of a path has; none: there is no such resource."""
    found: set[str] = set()
    for route in app.router.routes:
        if isinstance(route, Route) and route.matches(scope)[0] is not Match.NONE:
            found |= route.methods or set()
    return found


def _admit(keyring: KeyRing, scope: Scope) -> None:
    """Refuse the body of a stranger before it is read."""
    authorization = header(scope, b"authorization")
    if is_for_nodes(str(scope["path"])):
        keyring.require_exactly(authorization, Role.NODE)
    else:
        keyring.require(authorization, Role.AUDITOR)


def _takes_no_key(scope: Scope) -> bool:
    """Bodies that are read as they come, and answers that are kept nowhere.

    Those show a key in clear, or forget text, which must go when its target or corpus goes.
    """
    path = str(scope["path"])
    shows = path in _SHOWING or path.startswith(f"{PREFIX}/keys")
    return shows or reads_itself(scope) or reads_lines(scope)


# POSTs that change nothing and show forget text.
_SHOWING = (f"{PREFIX}/targets:preview", f"{PREFIX}/provenance:attribute", PAGE_PATH)

_targets = APIRouter(tags=["targets"])
_jobs = APIRouter(tags=["jobs"])
_probes = APIRouter(tags=["probes"])


@_targets.post("/targets", status_code=202, responses=tagged(202))
def register_target(target: TargetIn, here: Here, own: OwnAdmin, response: Response) -> Accepted:
    """Register a forget target; the job is done when every worker applies it."""
    check_target(here, target)
    return accepted(here, response, own.store.register(target))


@_targets.get("/targets")
def list_targets(
    here: Here, own: OwnAuditor, limit: Limit = 100, after: After = None, search: Search = None
) -> TargetPage:
    """List targets by id, without forget text."""
    found = own.store.target_page(after, limit + 1, search)
    shown, described = found[:limit], own.role >= Role.ADMIN
    counted = here.store.statistics().of([record.id for record in shown])
    page = [record.to_summary(described=described, counts=counted[record.id]) for record in shown]
    return TargetPage(targets=page, next=page[-1].id if len(found) > limit else None)


@_targets.get("/targets/{target_id:id}", responses=tagged())
def get_target(target_id: PathId, own: OwnAdmin, response: Response) -> TargetOut:
    """One target as registered, with its status and what was made of it."""
    record, document = own.store.target(target_id)
    response.headers["etag"] = record.etag
    return record.to_resource(document)


@_targets.put("/targets/{target_id:id}", status_code=202, responses=tagged(202))
def replace_target(
    target_id: PathId,
    target: TargetIn,
    here: Here,
    own: OwnAdmin,
    response: Response,
    if_match: IfMatch = None,
) -> Accepted:
    """Replace a target; the revision in force rules until the new one is acknowledged."""
    if target.id != target_id:
        raise InvalidField("id must be the id in the path.", param="id")
    check_target(here, target)
    return accepted(here, response, own.store.replace(target, if_match))


@_targets.delete("/targets/{target_id:id}", status_code=202, responses=tagged(202))
def withdraw_target(
    target_id: PathId,
    here: Here,
    own: OwnAdmin,
    response: Response,
    if_match: IfMatch = None,
) -> Accepted:
    """Withdraw a target; it is deleted when no worker applies it any more."""
    return accepted(here, response, own.store.withdraw(target_id, if_match))


@_jobs.get("/jobs")
def list_jobs(own: OwnAuditor, limit: Limit = 100, after: After = None) -> JobPage:
    """List jobs, newest first."""
    found = own.store.jobs().page(after, limit + 1)
    page = [job.to_out() for job in found[:limit]]
    return JobPage(jobs=page, next=page[-1].id if len(found) > limit else None)


@_jobs.get("/jobs/{job_id:id}")
def get_job(job_id: PathId, own: OwnAuditor) -> JobOut:
    """One job."""
    return own.store.jobs().find(job_id).to_out()


@_jobs.post("/jobs/{job_id:id}:cancel")
def cancel_job(job_id: PathId, here: Here, role: Admin) -> JobOut:
    """Cancel a training, or a change of a corpus's documents that has not begun."""
    here.require_lead()
    job = here.store.jobs().cancel(job_id)
    if job.kind is JobKind.TRAIN:
        here.trainings.worker.notify()
    else:
        here.corpora.result().discard_upload(job)
    return job.to_out()


@_jobs.get("/generation")
def get_generation(here: Here, role: Auditor) -> GenerationOut:
    """The policy that rules, and what every live gateway and worker has acknowledged."""
    active = here.publisher.read()
    record = here.store.generation(active.generation) if active is not None else None
    if active is None or record is None:
        raise NotReady("There is no policy yet.")
    followers = here.publisher.followers()
    behind = [f for f in followers if (f.generation or 0) < active.generation]
    return GenerationOut(
        generation=active.generation,
        digest=active.digest,
        in_force=record.confirmed_at is not None and not behind and here.nodes.fleet.all_apply(),
        num_targets=record.num_targets,
        cause=record.cause,
        created_at=utc(record.created_at),
        followers=[
            FollowerOut(
                kind=follower.kind,
                node=follower.node or None,
                pid=follower.pid,
                generation=follower.generation,
                digest=follower.digest,
                failed_generation=follower.failed_generation,
                error=follower.error,
            )
            for follower in followers
        ],
    )


@_jobs.get("/generations")
def list_generations(
    here: Here, role: Auditor, limit: Limit = 100, after: AfterNumber = None
) -> GenerationPage:
    """List activations of policies, newest first."""
    found = here.store.generation_page(after, limit + 1)
    page = [record.to_row() for record in found[:limit]]
    return GenerationPage(
        generations=page, next=page[-1].generation if len(found) > limit else None
    )


@_probes.get("/livez")
def livez() -> dict[str, str]:
    """Whether the process answers."""
    return {"status": "ok"}


@_probes.get("/readyz")
def readyz(here: Here) -> dict[str, str]:
    """Whether the store answers, a policy of the current models is in force and the corpora are
    open, or another process sees to that."""
    try:
        here.store.count_targets()
    except StoreFault:
        raise NotReady("The store cannot be read.") from None
    if here.lease.stands_by:
        return {"status": "standby"}
    if here.worker.fault is not None:
        raise NotReady("The job worker has failed.")
    if not here.worker.ready:
        raise NotReady("The policy is being compiled.")
    if not here.has_corpora_open:
        raise NotReady("The corpora are being opened.")
    return {"status": "ready"}


@_probes.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def metrics(here: Here, request: Request) -> Response:
    """The control process's metrics, for Prometheus; single targets' with an auditor's key only."""
    told = generate_latest(here.registry)
    caller = here.keyring.identify(request.headers.get("authorization"))
    if caller is not None and caller.role >= Role.AUDITOR and caller.scope.tenant is None:
        told += generate_latest(here.target_registry)
    return Response(told, media_type=CONTENT_TYPE_LATEST)


async def _on_server_error(_request: Request, error: Exception) -> JSONResponse:
    return error_response(error)


async def _on_invalid(_request: Request, error: Exception) -> JSONResponse:
    problems = error.errors() if isinstance(error, RequestValidationError) else []
    problem = dict(problems[0]) if problems else {}
    # The first part says that it is of the body.
    return error_response(explain({**problem, "loc": tuple(problem.get("loc", ()))[1:]}))


async def _on_http(request: Request, error: Exception) -> JSONResponse:
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 405:
        allow = _methods(request.app, request.scope)
        return error_response(MethodNotAllowed("The resource has no such method.", allow=allow))
    if status == 404:
        return error_response(NotFound("There is no such resource."))
    return error_response(InvalidField("The request cannot be read."))
