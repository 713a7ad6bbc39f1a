"""What the admin API's handlers share: what they work on, who may call them, how they accept."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request, Response
from prometheus_client import CollectorRegistry

from server.access import caller_of
from server.assistants import Assistants
from server.audit.writer import AuditWriter
from server.auth import KeyRing, Role
from server.errors import InvalidField, NotReady
from server.jobs import JobWorker
from server.keys.routes import Keys
from server.lease import Lease
from server.nodes.routes import Nodes
from server.policy import Publisher
from server.provenance.routes import Corpora
from server.records import JobRecord, TargetRecord
from server.resources import Accepted
from server.schemas import TargetIn
from server.store import Store
from server.training.service import Trainings

PREFIX = "/admin/v1"


@dataclass(frozen=True, slots=True)
class Control:
    """What the admin API works on."""

    store: Store
    worker: JobWorker
    publisher: Publisher
    keyring: KeyRing
    registry: CollectorRegistry
    corpora: Future[Corpora]
    assistants: Assistants
    keys: Keys
    lease: Lease
    audit: AuditWriter
    trainings: Trainings
    nodes: Nodes
    # Metrics that name targets.
    target_registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    @property
    def has_corpora_open(self) -> bool:
        """Whether what the API says of the corpora is what their indexes hold."""
        opened = self.corpora.done() and self.corpora.exception() is None
        return opened and self.corpora.result().worker.ready

    def require_lead(self) -> None:
        """Refuse what only the process that compiles can do.

        Raises:
            NotReady: another control process on this store does it.
        """
        if self.lease.stands_by:
            raise NotReady("Another control process leads; this one stands by.")


@dataclass(frozen=True, slots=True)
class Own:
    """What a caller may see of the store: all, or its tenant's."""

    store: Store
    role: Role

    @classmethod
    def at_least(cls, minimum: Role) -> Callable[..., Own]:
        """A dependency that refuses lesser roles."""

        def own(request: Request) -> Own:
            caller = caller_of(request, minimum)
            return cls(_control(request).store.limited_to(caller.scope.tenant), caller.role)

        return own


def _control(request: Request) -> Control:
    control: Control = request.app.state.control
    return control


Here = Annotated[Control, Depends(_control)]
OwnAdmin = Annotated[Own, Depends(Own.at_least(Role.ADMIN))]
OwnAuditor = Annotated[Own, Depends(Own.at_least(Role.AUDITOR))]


def accepted(here: Control, response: Response, stored: tuple[TargetRecord, JobRecord]) -> Accepted:
    """The answer to a stored change, whose job the worker is told of."""
    record, job = stored
    here.worker.notify()
    response.headers["location"] = f"{PREFIX}/targets/{record.id}"
    response.headers["etag"] = record.etag
    return Accepted(target=record.to_summary(described=True), job=job.to_out())


def check_target(here: Control, target: TargetIn) -> None:
    """Refuse a target whose time is over, or whose assistant could not be served.

    Raises:
        InvalidField: naming `expires_at` or a part of `uld`.
    """
    if target.is_over():
        raise InvalidField("expires_at: must be in the future", param="expires_at")
    here.assistants.check(target)
