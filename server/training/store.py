"""The store's side of trainings: what was asked for, until it has ended.

A training and its job are one transaction. The targets' texts are not copied here: a training takes
their newest revision when it begins.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select, update

from server.database import Database, Write
from server.errors import Conflict, InvalidField, TrainingTargetGone
from server.job_rows import add_job, load_jobs
from server.records import JobRecord
from server.tables import (
    JobKind,
    JobState,
    TargetStatus,
    jobs,
    targets,
    training_jobs,
    versions,
)
from server.training.schemas import TrainingIn

_OPEN = (JobState.QUEUED, JobState.RUNNING)


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """A training taken for work."""

    job: JobRecord
    wanted: TrainingIn


class TrainingStore:
    """Trainings and their jobs."""

    def __init__(self, database: Database, write: Write | None = None) -> None:
        """`write` begins the transactions that may write, by default the database's own."""
        self._database = database
        self._write = write or database.write

    def create(self, wanted: TrainingIn) -> JobRecord:
        """Store a training and its job.

        Raises:
            Conflict: an assistant of that id is being trained.
            InvalidField: a target is not there, or none has examples.
        """
        with self._write() as connection:
            if wanted.id in _open_ids(connection):
                raise Conflict("An assistant of that id is being trained.", param="id")
            revisions = _revisions(connection, wanted)
            job = add_job(connection, JobKind.TRAIN, revisions)
            row = {
                "job_number": job.number,
                "assistant_id": wanted.id,
                "payload": wanted.model_dump(mode="json"),
            }
            connection.execute(insert(training_jobs).values(row))
            return load_jobs(connection, select(jobs).where(jobs.c.number == job.number))[0]

    def open_ids(self) -> set[str]:
        """Assistants that are being trained or wait for it."""
        with self._database.read() as connection:
            return _open_ids(connection)

    def newest(self, assistant_id: str) -> str | None:
        """The id of the newest job that trained an assistant of this id."""
        query = (
            select(jobs.c.id)
            .join(training_jobs, training_jobs.c.job_number == jobs.c.number)
            .where(training_jobs.c.assistant_id == assistant_id)
            .order_by(jobs.c.number.desc())
            .limit(1)
        )
        with self._database.read() as connection:
            found: str | None = connection.scalar(query)
            return found

    def states(self) -> dict[str, JobState]:
        """The state of every training that is remembered, by job id."""
        query = select(jobs.c.id, jobs.c.state).where(jobs.c.kind == JobKind.TRAIN)
        with self._database.read() as connection:
            return {row.id: JobState(row.state) for row in connection.execute(query)}

    def recover(self) -> None:
        """Queue again what a dead process was running."""
        running = (jobs.c.state == JobState.RUNNING) & (jobs.c.kind == JobKind.TRAIN)
        with self._write() as connection:
            queued = {"state": JobState.QUEUED, "message": "resumed"}
            connection.execute(update(jobs).where(running).values(queued))

    def take(self) -> TrainingJob | None:
        """Set the oldest queued training to running and return it."""
        waiting = (jobs.c.state == JobState.QUEUED) & (jobs.c.kind == JobKind.TRAIN)
        query = select(jobs).where(waiting).order_by(jobs.c.number).limit(1)
        with self._write() as connection:
            found = load_jobs(connection, query)
            if not found:
                return None
            here = jobs.c.number == found[0].number
            started: dict[str, Any] = {"state": JobState.RUNNING}
            if found[0].started_at is None:
                started["started_at"] = time.time()
            connection.execute(update(jobs).where(here).values(started))
            link = training_jobs.c.job_number == found[0].number
            payload = connection.scalar(select(training_jobs.c.payload).where(link))
            return TrainingJob(found[0], TrainingIn.model_validate(payload))

    def documents(self, job: JobRecord) -> dict[str, dict[str, Any]]:
        """The newest revisions of a training's targets that still stand, by id."""
        newest = (versions.c.target_id == targets.c.id) & (
            versions.c.revision == targets.c.revision
        )
        query = select(versions.c.target_id, versions.c.document).join(targets, newest)
        with self._database.read() as connection:
            found = connection.execute(query.where(_standing(job))).all()
            return {row.target_id: dict(row.document) for row in found}

    def births(self, job: JobRecord) -> dict[str, float]:
        """When each of a training's targets that still stand was registered.

        One that took the id of a withdrawn one is another target.
        """
        with self._database.read() as connection:
            return _births(connection, job)

    def expect_targets(self, job: JobRecord, births: Mapping[str, float]) -> None:
        """Refuse to go on when one of a training's targets is not the one that it was.

        Raises:
            TrainingTargetGone: one was withdrawn, or its id is another's now.
        """
        with self._database.read() as connection:
            _expect_targets(connection, job, births)

    def is_wanted(self, job: JobRecord) -> bool:
        """Whether a job that was taken is still to be worked on: it may have been cancelled."""
        query = select(jobs.c.state).where(jobs.c.number == job.number)
        with self._database.read() as connection:
            return connection.scalar(query) == JobState.RUNNING

    def report_progress(self, job: JobRecord, message: str, progress: float) -> None:
        """Show how far a training is; `progress` is in 0..1."""
        shown = {"message": message[:200], "progress": min(max(progress, 0.0), 1.0)}
        with self._write() as connection:
            _while_running(connection, job, shown)

    def finish(self, job: JobRecord, births: Mapping[str, float], message: str) -> bool:
        """The assistant is registered; False where the job was cancelled meanwhile.

        Raises:
            TrainingTargetGone: a target is not there any more; the job is left running.
        """
        ended = {"state": JobState.DONE, "progress": 1.0, "message": message}
        with self._write() as connection:
            _expect_targets(connection, job, births)
            return _end(connection, job, ended)

    def fail(self, job: JobRecord, code: str, message: str) -> bool:
        """The training came to nothing; False where the job was cancelled meanwhile."""
        ended = {"state": JobState.FAILED, "message": ""}
        with self._write() as connection:
            return _end(connection, job, {**ended, "error_code": code, "error_message": message})


def _end(connection: Connection, job: JobRecord, values: Mapping[str, Any]) -> bool:
    ended = _while_running(connection, job, {**values, "finished_at": time.time()})
    link = training_jobs.c.job_number == job.number
    connection.execute(update(training_jobs).where(link).values(payload={}))
    return ended


def _while_running(connection: Connection, job: JobRecord, values: Mapping[str, Any]) -> bool:
    here = (jobs.c.number == job.number) & (jobs.c.state == JobState.RUNNING)
    return connection.execute(update(jobs).where(here).values(dict(values))).rowcount > 0


def _births(connection: Connection, job: JobRecord) -> dict[str, float]:
    query = select(targets.c.id, targets.c.created_at).where(_standing(job))
    return {row.id: row.created_at for row in connection.execute(query)}


def _expect_targets(connection: Connection, job: JobRecord, births: Mapping[str, float]) -> None:
    standing = _births(connection, job)
    if any(name not in births or standing.get(name) != births[name] for name in job.targets):
        raise TrainingTargetGone("a target was withdrawn before the training had ended")


def _standing(job: JobRecord) -> Any:
    return targets.c.id.in_(list(job.targets)) & (targets.c.status != TargetStatus.WITHDRAWN)


def _open_ids(connection: Connection) -> set[str]:
    query = (
        select(training_jobs.c.assistant_id)
        .join(jobs, jobs.c.number == training_jobs.c.job_number)
        .where(jobs.c.state.in_(_OPEN))
    )
    return set(connection.scalars(query))


def _revisions(connection: Connection, wanted: TrainingIn) -> dict[str, int]:
    """The targets' newest revisions, by id."""
    query = select(targets).where(
        targets.c.id.in_(wanted.targets) & (targets.c.status != TargetStatus.WITHDRAWN)
    )
    rows = {row.id: row for row in connection.execute(query)}
    for place, target_id in enumerate(wanted.targets):
        if target_id not in rows:
            path = f"targets[{place}]"
            raise InvalidField(f"{path}: there is no such target", param=path)
    if not any(row.summary["num_examples"] for row in rows.values()):
        raise InvalidField("targets: none of them has examples", param="targets")
    return {target_id: rows[target_id].revision for target_id in sorted(rows)}
