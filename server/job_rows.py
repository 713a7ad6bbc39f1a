"""Rows of jobs, with what each is about, within a transaction of the caller's."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, insert, select, update

from server.records import JobRecord
from server.tables import (
    OTHER_KINDS,
    JobKind,
    JobState,
    corpus_jobs,
    job_targets,
    jobs,
    training_jobs,
)


def add_job(
    connection: Connection, kind: JobKind, changes: dict[str, int], tenant: str | None = None
) -> JobRecord:
    """Queue a job for these target revisions.

    `tenant` is that of the key that asks for it.
    """
    row = {
        "id": uuid.uuid4().hex,
        "kind": kind,
        "tenant": tenant,
        "state": JobState.QUEUED,
        "progress": 0.0,
        "message": "",
        "created_at": time.time(),
    }
    number = connection.execute(insert(jobs).values(row).returning(jobs.c.number)).scalar_one()
    if changes:
        rows = [
            {"job_number": number, "target_id": target_id, "revision": revision}
            for target_id, revision in changes.items()
        ]
        connection.execute(insert(job_targets), rows)
    return load_jobs(connection, select(jobs).where(jobs.c.number == number))[0]


def load_jobs(connection: Connection, query: Any) -> list[JobRecord]:
    """The jobs that a select on `jobs` gives, with their targets, in its order."""
    rows: Sequence[Any] = connection.execute(query).all()
    carried: dict[int, dict[str, int]] = {row.number: {} for row in rows}
    links = select(job_targets).where(job_targets.c.job_number.in_(list(carried)))
    for link in connection.execute(links):
        carried[link.job_number][link.target_id] = link.revision
    about = select(corpus_jobs).where(corpus_jobs.c.job_number.in_(list(carried)))
    corpus_of = {row.job_number: row.corpus_id for row in connection.execute(about)}
    trained = select(training_jobs).where(training_jobs.c.job_number.in_(list(carried)))
    assistant_of = {row.job_number: row.assistant_id for row in connection.execute(trained)}
    return [
        JobRecord.of(
            row, carried[row.number], corpus_of.get(row.number), assistant_of.get(row.number)
        )
        for row in rows
    ]


def supersede(connection: Connection, target_id: str) -> None:
    """Cancel the jobs of older revisions that have not begun; a training takes the newest."""
    older = select(job_targets.c.job_number).where(job_targets.c.target_id == target_id)
    # An import has other targets to bring into force too.
    others = (*OTHER_KINDS, JobKind.IMPORT)
    waiting = (
        jobs.c.number.in_(older) & (jobs.c.state == JobState.QUEUED) & jobs.c.kind.not_in(others)
    )
    ended = {"state": JobState.CANCELLED, "message": "superseded", "finished_at": time.time()}
    connection.execute(update(jobs).where(waiting).values(ended))
