"""The admin API's routes for assistants."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request

from server.access import Admin, Auditor
from server.admin_parts import Control
from server.assistants import Assistants
from server.parameters import PathId
from server.schemas import AssistantIn, AssistantList, AssistantOut


def _assistants(request: Request) -> Assistants:
    control: Control = request.app.state.control
    control.require_lead()
    return control.assistants


Here = Annotated[Assistants, Depends(_assistants)]

assistants_router = APIRouter(tags=["assistants"])


@assistants_router.post("/assistants", status_code=201)
def register_assistant(assistant: AssistantIn, assistants: Here, role: Admin) -> AssistantOut:
    """Copy an assistant from a folder of this machine; targets may name it from then on."""
    return assistants.register(assistant)


@assistants_router.get("/assistants")
def list_assistants(assistants: Here, role: Auditor) -> AssistantList:
    """All assistants by id, with their cards' figures."""
    return AssistantList(assistants=assistants.all())


@assistants_router.delete("/assistants/{assistant_id:id}")
def remove_assistant(assistant_id: PathId, assistants: Here, role: Admin) -> AssistantOut:
    """Retire an assistant that no target names."""
    return assistants.remove(assistant_id)
