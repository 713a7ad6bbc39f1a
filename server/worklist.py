"""The worker's side of the store: which policy to compile, and what became of it.

Every step is one transaction, and the pointer that followers watch moves only between
`record_generation` and `confirm`. A process that dies anywhere in between finds its jobs running at
the next start, queues them again and comes to the same result under a higher generation.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import (
    Connection,
    Integer,
    and_,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)

from detectors.targets import ForgetTarget
from server.database import Database, Write
from server.error_table import row_of
from server.errors import PolicyFault
from server.job_rows import add_job, load_jobs
from server.records import GenerationRecord, JobRecord
from server.schemas import TargetIn
from server.tables import (
    FINAL_STATES,
    OTHER_KINDS,
    JobKind,
    JobState,
    TargetStatus,
    generations,
    job_targets,
    jobs,
    targets,
    versions,
)
from server.target_rows import delete_targets

JOB_RETENTION_SECONDS = 30 * 24 * 3600
_REMOVALS = (JobKind.WITHDRAW, JobKind.EXPIRE)
# Corpora and trainings have workers of their own.
_OURS = jobs.c.kind.not_in(OTHER_KINDS)


@dataclass(frozen=True, slots=True)
class Plan:
    """The policy that a batch of jobs asks for.

    `revisions` tells which revision of each target is in it; `changed` are the targets whose
    standing the batch changes, `removed` those that it deletes.
    """

    targets: tuple[ForgetTarget, ...]
    revisions: Mapping[str, int]
    changed: frozenset[str]
    removed: tuple[str, ...]


class Worklist:
    """Transactions of the job worker."""

    def __init__(
        self, database: Database, write: Write | None = None, *, keep_versions: int = 10
    ) -> None:
        """`write` begins the transactions that may write, by default the database's own.

        `keep_versions` is how many revisions before the one in force are kept of each target.
        """
        self._keep_versions = keep_versions
        self._database = database
        self._write = write or database.write

    def recover(self) -> int:
        """Queue again what a dead process was running; returns how many jobs that were."""
        running = (jobs.c.state == JobState.RUNNING) & _OURS
        compiling = targets.c.status == TargetStatus.COMPILING
        queued = {"state": JobState.QUEUED, "progress": 0.0, "message": "resumed"}
        with self._write() as connection:
            pending = {"status": TargetStatus.PENDING}
            connection.execute(update(targets).where(compiling).values(pending))
            return connection.execute(update(jobs).where(running).values(queued)).rowcount

    def request_recompile(self) -> JobRecord:
        """Queue a job that compiles the policy as it stands, or give the one that waits already."""
        waits = (jobs.c.kind == JobKind.RECOMPILE) & (jobs.c.state == JobState.QUEUED)
        with self._write() as connection:
            waiting = load_jobs(connection, select(jobs).where(waits).limit(1))
            return waiting[0] if waiting else add_job(connection, JobKind.RECOMPILE, {})

    def take(self) -> list[JobRecord]:
        """Set every queued job to running and return them, oldest first."""
        waiting = (jobs.c.state == JobState.QUEUED) & _OURS
        queued = select(jobs).where(waiting).order_by(jobs.c.number)
        started = {"state": JobState.RUNNING, "started_at": time.time()}
        with self._write() as connection:
            batch = load_jobs(connection, queued)
            connection.execute(update(jobs).where(_among(batch)).values(started))
            carried = select(job_targets.c.target_id).where(
                job_targets.c.job_number.in_([job.number for job in batch])
            )
            pending = targets.c.id.in_(carried) & (targets.c.status == TargetStatus.PENDING)
            compiling = {"status": TargetStatus.COMPILING}
            connection.execute(update(targets).where(pending).values(compiling))
        return batch

    def count_queued(self) -> int:
        """How many jobs wait."""
        waiting = select(func.count()).select_from(jobs).where(jobs.c.state == JobState.QUEUED)
        with self._database.read() as connection:
            return connection.scalar(waiting) or 0

    def plan(self, batch: Sequence[JobRecord]) -> Plan:
        """The policy with these jobs' changes and no others.

        Targets outside the batch keep the revision that is in force.
        """
        touched = {target_id for job in batch for target_id in job.targets}
        everything = any(job.kind is JobKind.RECOMPILE for job in batch)
        revisions: dict[str, int] = {}
        removed: list[str] = []
        with self._database.read() as connection:
            for row in connection.execute(select(targets).order_by(targets.c.id)):
                withdrawn = row.status == TargetStatus.WITHDRAWN
                if row.id in touched and withdrawn:
                    removed.append(row.id)
                elif row.id in touched:
                    revisions[row.id] = row.revision
                elif row.active_revision is not None:
                    revisions[row.id] = row.active_revision
            documents = _documents(connection, revisions)
        changed = frozenset(revisions) if everything else frozenset(touched & revisions.keys())
        return Plan(documents, revisions, changed, tuple(removed))

    def report_progress(self, batch: Sequence[JobRecord], message: str, progress: float) -> None:
        """Show how far a batch is; `progress` is in 0..1."""
        shown = {"message": message[:200], "progress": min(max(progress, 0.0), 1.0)}
        with self._write() as connection:
            connection.execute(update(jobs).where(_among(batch)).values(shown))

    def record_generation(
        self, digest: str, fingerprint: str, cause: str, num_targets: int, *, above: int
    ) -> GenerationRecord:
        """Give an activation its number: greater than every recorded one and than `above`."""
        with self._write() as connection:
            highest = connection.scalar(select(func.max(generations.c.number))) or 0
            record = GenerationRecord(
                number=max(highest, above) + 1,
                digest=digest,
                fingerprint=fingerprint,
                cause=cause,
                num_targets=num_targets,
                created_at=time.time(),
                confirmed_at=None,
            )
            connection.execute(insert(generations).values(asdict(record)))
            return record

    def last_good(self, fingerprint: str) -> GenerationRecord | None:
        """The newest activation that every follower acknowledged, if these models can load it."""
        query = (
            select(generations)
            .where(generations.c.confirmed_at.is_not(None))
            .where(generations.c.fingerprint == fingerprint)
            .order_by(generations.c.number.desc())
            .limit(1)
        )
        with self._database.read() as connection:
            row = connection.execute(query).first()
            return GenerationRecord.of(row) if row is not None else None

    def confirm(
        self,
        generation: int,
        batch: Sequence[JobRecord] = (),
        plan: Plan | None = None,
        reports: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Record that a generation is in force, and so are the batch's changes."""
        now = time.time()
        number = generations.c.number == generation
        ended = {
            "state": JobState.DONE,
            "progress": 1.0,
            "message": "",
            "generation": generation,
            "finished_at": now,
        }
        with self._write() as connection:
            connection.execute(update(generations).where(number).values(confirmed_at=now))
            if plan is not None:
                delete_targets(connection, plan.removed)
                _activate(connection, plan, generation, reports or {}, self._keep_versions)
            connection.execute(update(jobs).where(_among(batch)).values(ended))

    def fail(self, batch: Sequence[JobRecord], fault: PolicyFault) -> None:
        """Record that a batch came to nothing; what was in force before still is."""
        error = {"error_code": row_of(fault).code, "error_message": str(fault)}
        ended = {"state": JobState.FAILED, "finished_at": time.time(), "message": "", **error}
        with self._write() as connection:
            connection.execute(update(jobs).where(_among(batch)).values(ended))
            for job in batch:
                for target_id, revision in job.targets.items():
                    _mark_failed(connection, job.kind, target_id, revision, error)

    def digests_since(self, count: int, after: float) -> set[str]:
        """Digests of the newest `count` generations and of all that ruled after a time."""
        query = select(generations).order_by(generations.c.number.desc())
        kept: set[str] = set()
        with self._database.read() as connection:
            for position, row in enumerate(connection.execute(query)):
                kept.add(row.digest)
                # A generation ruled until its successor, the row before it, was made.
                if position >= count - 1 and row.created_at < after:
                    break
        return kept

    def forget_old_jobs(self) -> None:
        """Delete jobs that ended long ago."""
        old = and_(
            jobs.c.state.in_(FINAL_STATES),
            jobs.c.finished_at < time.time() - JOB_RETENTION_SECONDS,
        )
        with self._write() as connection:
            connection.execute(delete(job_targets).where(_links_of(old)))
            connection.execute(delete(jobs).where(old))


def _among(batch: Sequence[JobRecord]) -> Any:
    return jobs.c.number.in_([job.number for job in batch])


def _links_of(condition: Any) -> Any:
    return job_targets.c.job_number.in_(select(jobs.c.number).where(condition))


def _documents(connection: Connection, revisions: Mapping[str, int]) -> tuple[ForgetTarget, ...]:
    """The targets of these revisions, in order of their ids."""
    of = (versions.c.target_id == targets.c.id) & (
        (versions.c.revision == targets.c.revision)
        | (versions.c.revision == targets.c.active_revision)
    )
    query = select(versions).join(targets, of).order_by(versions.c.target_id)
    return tuple(
        TargetIn.model_validate(row.document).to_target()
        for row in connection.execute(query)
        if revisions.get(row.target_id) == row.revision
    )


def _activate(
    connection: Connection,
    plan: Plan,
    generation: int,
    reports: Mapping[str, Mapping[str, Any]],
    keep: int,
) -> None:
    """Note the revisions in force; a newer one or a withdrawal that came meanwhile still waits."""
    rows = [{"target": t, "now": plan.revisions[t], "found": reports.get(t)} for t in plan.changed]
    if not rows:
        return
    here = targets.c.id == bindparam("target")
    in_force = {
        "active_revision": bindparam("now", type_=Integer),
        "generation": generation,
        "report": bindparam("found"),
    }
    # Not an IN, which cannot be executed for many rows at once.
    waiting = or_(
        targets.c.status == TargetStatus.COMPILING,
        targets.c.status == TargetStatus.PENDING,
        targets.c.status == TargetStatus.FAILED,
    )
    settled = here & (targets.c.revision == bindparam("now", type_=Integer)) & waiting
    active = {"status": TargetStatus.ACTIVE, "error_code": None, "error_message": None}
    older = (versions.c.target_id == bindparam("target")) & (
        versions.c.revision < bindparam("now", type_=Integer) - keep
    )
    connection.execute(update(targets).where(here).values(in_force), rows)
    named = [{"target": row["target"], "now": row["now"]} for row in rows]
    connection.execute(update(targets).where(settled).values(active), named)
    connection.execute(delete(versions).where(older), named)


def _mark_failed(
    connection: Connection,
    kind: JobKind,
    target_id: str,
    revision: int,
    error: Mapping[str, str],
) -> None:
    here = (targets.c.id == target_id) & (targets.c.revision == revision)
    if kind in _REMOVALS:
        # Still in force, so it says so; one that never was stays failed.
        here &= targets.c.status == TargetStatus.WITHDRAWN
        ruling = targets.c.active_revision == targets.c.revision
        active = {"status": TargetStatus.ACTIVE, **error}
        connection.execute(update(targets).where(here & ruling).values(active))
    else:
        here &= targets.c.status.in_((TargetStatus.COMPILING, TargetStatus.PENDING))
    connection.execute(
        update(targets)
        .where(here & (targets.c.status != TargetStatus.ACTIVE))
        .values(status=TargetStatus.FAILED, **error)
    )
