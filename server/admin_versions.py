"""The admin API's part about revisions: patch a target, see what it was, go back."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Path, Query, Response

from server.admin_parts import (
    Control,
    Here,
    Own,
    OwnAdmin,
    OwnAuditor,
    accepted,
    check_target,
)
from server.errors import Conflict
from server.etags import tagged
from server.parameters import MAX_NUMBER, IfMatch, PathId
from server.records import utc
from server.resources import Accepted
from server.schemas import TargetIn
from server.tables import TargetStatus
from server.target_rows import check_match
from server.versions import (
    VersionDiff,
    VersionDocument,
    VersionList,
    VersionOut,
    changes,
    patched,
)

router = APIRouter(tags=["versions"])

Revision = Annotated[int, Path(ge=1, le=MAX_NUMBER)]


@router.patch("/targets/{target_id:id}", status_code=202, responses=tagged(202))
def patch_target(
    target_id: PathId,
    patch: Annotated[dict[str, Any], Body(description="A JSON merge patch (RFC 7396).")],
    here: Here,
    own: OwnAdmin,
    response: Response,
    if_match: IfMatch = None,
) -> Accepted:
    """Change some fields of a target; null gives a field its default."""
    record, document = own.store.target(target_id)
    check_match(record, if_match)
    return _replaced(here, own, response, patched(document, patch), record.etag)


@router.get("/targets/{target_id:id}/versions")
def list_versions(target_id: PathId, own: OwnAuditor) -> VersionList:
    """The kept revisions of a target, newest first, without text."""
    record, kept = own.store.versions(target_id)
    listed = [
        VersionOut(
            revision=revision,
            active=revision == record.active_revision,
            newest=revision == record.revision,
            created_at=None if created_at is None else utc(created_at),
        )
        for revision, created_at in kept
    ]
    return VersionList(target_id=target_id, versions=listed)


@router.get("/targets/{target_id:id}/versions/{revision:id}")
def get_version(target_id: PathId, revision: Revision, own: OwnAdmin) -> VersionDocument:
    """A kept revision as it was registered."""
    document = own.store.version(target_id, revision)
    return VersionDocument(target_id=target_id, revision=revision, target=document)


@router.get("/targets/{target_id:id}/versions:diff")
def diff_versions(
    target_id: PathId,
    own: OwnAdmin,
    before: Annotated[int, Query(alias="from", ge=1, le=MAX_NUMBER)],
    after: Annotated[int | None, Query(alias="to", ge=1, le=MAX_NUMBER)] = None,
) -> VersionDiff:
    """What changed between two kept revisions; `to` is the newest one unless given."""
    to = own.store.target(target_id)[0].revision if after is None else after
    found = changes(own.store.version(target_id, before), own.store.version(target_id, to))
    return VersionDiff(target_id=target_id, from_revision=before, to_revision=to, changes=found)


@router.post(
    "/targets/{target_id:id}/versions/{revision:id}:rollback",
    status_code=202,
    responses=tagged(202),
)
def roll_back(
    target_id: PathId,
    revision: Revision,
    here: Here,
    own: OwnAdmin,
    response: Response,
    if_match: IfMatch = None,
) -> Accepted:
    """Make a kept revision the newest again, under a number of its own."""
    record, _ = own.store.target(target_id)
    check_match(record, if_match)
    target = TargetIn.model_validate(own.store.version(target_id, revision))
    return _replaced(here, own, response, target, record.etag)


def _replaced(here: Control, own: Own, response: Response, target: TargetIn, etag: str) -> Accepted:
    """Store a revision that was made from the one of this ETag."""
    if own.store.target(target.id)[0].status is TargetStatus.WITHDRAWN:
        raise Conflict("The target is being withdrawn; wait for its job to end.", param="id")
    check_target(here, target)
    return accepted(here, response, own.store.replace(target, etag))
