"""Rows of the store as values, and how they are shown by the admin API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row

from server.resources import GenerationRow, JobError, JobOut, TargetOut, TargetSummary, TargetUse
from server.schemas import TargetIn
from server.statistics.counts import TargetCounts
from server.tables import JobKind, JobState, TargetStatus

# Of a job that carries thousands.
_SHOWN_TARGETS = 100


@dataclass(frozen=True, slots=True)
class TargetRecord:
    """A target without its document; times are seconds since the epoch."""

    id: str
    revision: int
    active_revision: int | None
    generation: int | None
    status: TargetStatus
    tenant: str | None
    summary: Mapping[str, Any]
    report: Mapping[str, Any] | None
    error: JobError | None
    expires_at: float | None
    created_at: float
    updated_at: float

    @classmethod
    def of(cls, row: Row[Any]) -> TargetRecord:
        """From a row of `targets`."""
        return cls(
            id=row.id,
            revision=row.revision,
            active_revision=row.active_revision,
            generation=row.generation,
            status=TargetStatus(row.status),
            tenant=row.tenant,
            summary=row.summary,
            report=row.report,
            error=_error(row),
            expires_at=row.expires_at,
            created_at=row.created_at,
            updated_at=row.updated_at,
        )

    @property
    def etag(self) -> str:
        """Differs for every revision, also of a target that took the id of a withdrawn one."""
        return f'"{int(self.created_at * 1000):x}.{self.revision}"'

    def to_summary(self, *, described: bool, counts: TargetCounts | None = None) -> TargetSummary:
        """For lists; `described` adds the operator's description, `counts` what it did."""
        shown = {**self.summary, "description": self.summary["description"] if described else None}
        return TargetSummary(
            id=self.id,
            status=self.status,
            revision=self.revision,
            active_revision=self.active_revision,
            generation=self.generation,
            error=self.error,
            expires_at=_time(self.expires_at),
            created_at=utc(self.created_at),
            updated_at=utc(self.updated_at),
            tenant=self.tenant,
            statistics=None if counts is None else _use(counts),
            **shown,
        )

    def to_resource(self, document: dict[str, Any]) -> TargetOut:
        """The whole target, with the newest revision's document."""
        return TargetOut(
            id=self.id,
            status=self.status,
            revision=self.revision,
            active_revision=self.active_revision,
            generation=self.generation,
            error=self.error,
            target=document,
            report=dict(self.report) if self.report is not None else None,
            created_at=utc(self.created_at),
            updated_at=utc(self.updated_at),
        )


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job and the target revisions it carries."""

    number: int
    id: str
    kind: JobKind
    state: JobState
    targets: Mapping[str, int]
    progress: float
    message: str
    error: JobError | None
    generation: int | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    corpus_id: str | None = None
    assistant_id: str | None = None

    @classmethod
    def of(
        cls,
        row: Row[Any],
        targets: Mapping[str, int],
        corpus_id: str | None = None,
        assistant_id: str | None = None,
    ) -> JobRecord:
        """From a row of `jobs`, its rows of `job_targets` and what else it is about."""
        return cls(
            number=row.number,
            id=row.id,
            kind=JobKind(row.kind),
            state=JobState(row.state),
            targets=targets,
            progress=row.progress,
            message=row.message,
            error=_error(row),
            generation=row.generation,
            created_at=row.created_at,
            started_at=row.started_at,
            finished_at=row.finished_at,
            corpus_id=corpus_id,
            assistant_id=assistant_id,
        )

    def to_out(self) -> JobOut:
        """For the admin API."""
        return JobOut(
            id=self.id,
            kind=self.kind,
            state=self.state,
            target_ids=sorted(self.targets)[:_SHOWN_TARGETS],
            num_targets=len(self.targets),
            corpus_id=self.corpus_id,
            assistant_id=self.assistant_id,
            progress=self.progress,
            message=self.message,
            error=self.error,
            generation=self.generation,
            created_at=utc(self.created_at),
            started_at=_time(self.started_at),
            finished_at=_time(self.finished_at),
        )


@dataclass(frozen=True, slots=True)
class GenerationRecord:
    """One activation; `confirmed_at` is when every live follower had acknowledged it."""

    number: int
    digest: str
    fingerprint: str
    cause: str
    num_targets: int
    created_at: float
    confirmed_at: float | None

    @classmethod
    def of(cls, row: Row[Any]) -> GenerationRecord:
        """From a row of `generations`."""
        return cls(
            number=row.number,
            digest=row.digest,
            fingerprint=row.fingerprint,
            cause=row.cause,
            num_targets=row.num_targets,
            created_at=row.created_at,
            confirmed_at=row.confirmed_at,
        )

    def to_row(self) -> GenerationRow:
        """For lists."""
        return GenerationRow(
            generation=self.number,
            digest=self.digest,
            cause=self.cause,
            num_targets=self.num_targets,
            created_at=utc(self.created_at),
            confirmed_at=_time(self.confirmed_at),
        )


def summarise(target: TargetIn) -> dict[str, Any]:
    """What lists show of a target, kept beside it so that lists read no documents."""
    return {
        "description": target.description,
        "action": target.action.value,
        "enforcement": target.enforcement.value,
        "scope": target.scope.value,
        "num_examples": len(target.examples),
        "num_phrases": len(target.phrases),
        "num_documents": len(target.documents),
        "labels": dict(target.labels),
    }


def utc(seconds: float) -> datetime:
    """A stored time as the API shows it."""
    return datetime.fromtimestamp(seconds, UTC)


def _use(counts: TargetCounts) -> TargetUse:
    return TargetUse(
        matched=counts.matched,
        refused=counts.refused,
        steered=counts.steered,
        cut=counts.cut,
        would_refuse=counts.would_refuse,
        would_steer=counts.would_steer,
        would_cut=counts.would_cut,
        last_matched_at=_time(counts.last_matched_at or None),
    )


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else utc(seconds)


def _error(row: Row[Any]) -> JobError | None:
    if row.error_code is None:
        return None
    return JobError(code=row.error_code, message=row.error_message or "")
