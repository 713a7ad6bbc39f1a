"""The admin API's routes for assistants."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from server.access import Admin, Auditor
from server.admin_parts import Control
from server.assistants import Assistants, assistant_etag
from server.etags import tagged
from server.parameters import After, IfMatch, Limit, PathId
from server.resources import AssistantOut, AssistantPage
from server.schemas import AssistantIn


def _assistants(request: Request) -> Assistants:
    control: Control = request.app.state.control
    control.require_lead()
    return control.assistants


Here = Annotated[Assistants, Depends(_assistants)]

assistants_router = APIRouter(tags=["assistants"])


@assistants_router.post("/assistants", status_code=201, responses=tagged(201))
def register_assistant(
    assistant: AssistantIn, assistants: Here, role: Admin, response: Response
) -> AssistantOut:
    """Copy an assistant from a folder of this machine; targets may name it from then on."""
    made = assistants.register(assistant)
    response.headers["location"] = f"/admin/v1/assistants/{made.id}"
    response.headers["etag"] = assistant_etag(made)
    return made


@assistants_router.get("/assistants")
def list_assistants(
    assistants: Here,
    role: Auditor,
    limit: Limit = 100,
    after: After = None,
) -> AssistantPage:
    """List assistants by id, with their cards' figures."""
    found = assistants.page(after, limit + 1)
    page = found[:limit]
    return AssistantPage(assistants=page, next=page[-1].id if len(found) > limit else None)


@assistants_router.get("/assistants/{assistant_id:id}", responses=tagged())
def get_assistant(
    assistant_id: PathId, assistants: Here, role: Auditor, response: Response
) -> AssistantOut:
    """One assistant; its ETag is its content's digest."""
    found = assistants.one(assistant_id)
    response.headers["etag"] = assistant_etag(found)
    return found


@assistants_router.delete("/assistants/{assistant_id:id}")
def remove_assistant(
    assistant_id: PathId, assistants: Here, role: Admin, if_match: IfMatch = None
) -> AssistantOut:
    """Retire an assistant that no target names."""
    return assistants.remove(assistant_id, if_match)
