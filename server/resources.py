"""The admin API's JSON: what the server answers."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel


class AssistantOut(BaseModel):
    """A registered assistant; `in_use` while a target or the policy in force names it.

    What its card says is null where that is damaged; the assistant can still be retired.
    """

    id: str
    digest: str
    layers: int | None = None
    base_layers: int | None = None
    num_pairs: int | None = None
    trained_on: list[str] | None = None
    metrics: dict[str, float] | None = None
    in_use: bool


class AssistantPage(BaseModel):
    """A page of assistants by id; `next` is the cursor for `after`, null on the last page."""

    assistants: list[AssistantOut]
    next: str | None


class JobError(BaseModel):
    """Why a job failed: a closed code and a sentence without forget text."""

    code: str
    message: str


class JobOut(BaseModel):
    """One change on its way into force; of many targets `target_ids` has the first 100."""

    id: str
    kind: str
    state: str
    target_ids: list[str]
    num_targets: int
    corpus_id: str | None = None
    assistant_id: str | None = None
    progress: float
    message: str
    error: JobError | None
    generation: int | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class TargetUse(BaseModel):
    """What a target did so far: of prompts that it was detected in, and of answers."""

    matched: int
    refused: int
    steered: int
    cut: int
    would_refuse: int
    would_steer: int
    would_cut: int
    last_matched_at: datetime | None


class TargetSummary(BaseModel):
    """A target in a list: no forget text; `description` is null unless an admin asks.

    `statistics` are null where a change is answered.
    """

    id: str
    description: str | None
    status: str
    revision: int
    active_revision: int | None
    generation: int | None
    action: str
    enforcement: str
    scope: str
    num_examples: int
    num_phrases: int
    num_documents: int
    labels: dict[str, str]
    tenant: str | None
    error: JobError | None
    expires_at: datetime | None
    created_at: datetime
    updated_at: datetime
    statistics: TargetUse | None


class TargetOut(BaseModel):
    """A whole target; `target` is what was registered, the rest is read-only."""

    id: str
    status: str
    revision: int
    active_revision: int | None
    generation: int | None
    error: JobError | None
    target: dict[str, Any]
    report: dict[str, Any] | None
    created_at: datetime
    updated_at: datetime


class Accepted(BaseModel):
    """Stored; the job says when it is in force."""

    target: TargetSummary
    job: JobOut


class TargetPage(BaseModel):
    """A page of targets by id; `next` is the cursor for `after`, null on the last page."""

    targets: list[TargetSummary]
    next: str | None


class JobPage(BaseModel):
    """A page of jobs, newest first; `next` is the cursor for `after`."""

    jobs: list[JobOut]
    next: str | None


class FollowerOut(BaseModel):
    """A live gateway or worker process, or a node, and the policy it applies.

    `node` is where it runs; null beside the control process.
    """

    kind: str
    node: str | None
    pid: int
    generation: int | None
    digest: str | None
    failed_generation: int | None
    error: str | None


class GenerationOut(BaseModel):
    """The policy that rules, and who has acknowledged it."""

    generation: int
    digest: str
    in_force: bool
    num_targets: int
    cause: str
    created_at: datetime
    followers: list[FollowerOut]


class GenerationRow(BaseModel):
    """An activation; `confirmed_at` is when everybody who ran had acknowledged it, null if never.

    A digest comes back when nothing else is in force than before.
    """

    generation: int
    digest: str
    cause: str
    num_targets: int
    created_at: datetime
    confirmed_at: datetime | None


class GenerationPage(BaseModel):
    """A page of activations, newest first; `next` is the cursor for `after`."""

    generations: list[GenerationRow]
    next: int | None
