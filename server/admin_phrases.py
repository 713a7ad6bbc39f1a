"""The admin API's part about phrases: see them, edit them, preview what a target would become."""

from __future__ import annotations

from fastapi import APIRouter, Response

from server.admin_parts import Here, OwnAdmin, accepted, check_target
from server.errors import Conflict
from server.etags import tagged
from server.parameters import IfMatch, PathId
from server.phrases import (
    PhraseEdit,
    PhraseList,
    Preview,
    edited,
    list_phrases,
    phrase_warnings,
    retain_examples,
)
from server.resources import Accepted
from server.schemas import TargetIn
from server.tables import TargetStatus
from server.target_rows import check_match

router = APIRouter(tags=["phrases"])


@router.get("/targets/{target_id:id}/phrases", responses=tagged())
def get_phrases(target_id: PathId, own: OwnAdmin, response: Response) -> PhraseList:
    """Every phrase of the newest revision, with its reason and the harmless texts it occurs in."""
    record, document = own.store.target(target_id)
    response.headers["etag"] = record.etag
    target = TargetIn.model_validate(document)
    others = own.store.standing_targets(besides=target_id)
    return list_phrases(target, record.revision, retain_examples(others))


@router.post("/targets/{target_id:id}/phrases", status_code=202, responses=tagged(202))
def edit_phrases(
    target_id: PathId,
    edit: PhraseEdit,
    here: Here,
    own: OwnAdmin,
    response: Response,
    if_match: IfMatch = None,
) -> Accepted:
    """Add and strike phrases: a new revision of the target, in force when its job is done."""
    record, document = own.store.target(target_id)
    check_match(record, if_match)
    if record.status is TargetStatus.WITHDRAWN:
        raise Conflict("The target is being withdrawn; wait for its job to end.", param="id")
    target = edited(TargetIn.model_validate(document), edit)
    check_target(here, target)
    # The edit is of the revision that was just read, whatever the client allows.
    return accepted(here, response, own.store.replace(target, record.etag))


@router.post("/targets:preview")
def preview_target(target: TargetIn, here: Here, own: OwnAdmin) -> Preview:
    """What a target would become beside all others: phrases, thresholds, warnings. Stores nothing.

    A registered target of the same id counts as replaced.
    """
    check_target(here, target)
    listed = list_phrases(
        target, None, retain_examples(own.store.standing_targets(besides=target.id))
    )
    others = here.store.standing_targets(besides=target.id)
    calibration = here.worker.preview(target.to_target(), [other.to_target() for other in others])
    warnings = [*calibration.get("warnings", ()), *phrase_warnings(listed)]
    return Preview(phrases=listed, calibration=dict(calibration), warnings=warnings)
