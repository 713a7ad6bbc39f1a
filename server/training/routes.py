"""The admin API's routes for trainings of assistants."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from guard.uld.steps import curve_picture
from server.access import Admin, Auditor
from server.parameters import PathId
from server.training.schemas import StepOut, StepPage, TrainingAccepted, TrainingIn
from server.training.service import Trainings


def _trainings(request: Request) -> Trainings:
    control = request.app.state.control
    control.require_lead()
    found: Trainings = control.trainings
    return found


Here = Annotated[Trainings, Depends(_trainings)]

router = APIRouter(tags=["assistants"])


@router.post("/assistants:train", status_code=202)
def train_assistant(
    training: TrainingIn, here: Here, role: Admin, response: Response
) -> TrainingAccepted:
    """Train an assistant from targets' examples; it is registered when the job is done."""
    job = here.request(training)
    response.headers["location"] = f"/admin/v1/jobs/{job.id}"
    return TrainingAccepted(assistant_id=training.id, job=job.to_out())


@router.get("/assistants/{assistant_id:id}/log")
def get_log(
    assistant_id: PathId,
    here: Here,
    role: Auditor,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    after: Annotated[int, Query(ge=0, description="`next` of the page before.")] = 0,
) -> StepPage:
    """The steps of an assistant's training, also while it runs."""
    found = [step for step in here.steps(assistant_id) if step.step > after]
    page = [StepOut(**asdict(step)) for step in found[:limit]]
    return StepPage(steps=page, next=page[-1].step if len(found) > limit else None)


@router.get(
    "/assistants/{assistant_id:id}/loss.svg",
    response_class=Response,
    responses={200: {"content": {"image/svg+xml": {"schema": {"type": "string"}}}}},
)
def get_losses(assistant_id: PathId, here: Here, role: Auditor) -> Response:
    """The losses' means per epoch as a picture."""
    return Response(curve_picture(here.steps(assistant_id)), media_type="image/svg+xml")
