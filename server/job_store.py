"""The jobs, as the admin API sees them."""

from __future__ import annotations

import time

from sqlalchemy import ColumnElement, Connection, select, true, update

from server.database import Database
from server.errors import Conflict, NotFound
from server.job_rows import load_jobs
from server.records import JobRecord
from server.tables import FINAL_STATES, JobKind, JobState, jobs, training_jobs

_CANCELLABLE = {
    JobKind.TRAIN: (JobState.QUEUED, JobState.RUNNING),
    JobKind.CORPUS_ADD: (JobState.QUEUED,),
    JobKind.CORPUS_ADOPT: (JobState.QUEUED,),
    JobKind.CORPUS_WITHDRAW: (JobState.QUEUED,),
    JobKind.CORPUS_VERIFY: (JobState.QUEUED,),
}
_LEFT_TO_RUN = (
    "This job cannot be cancelled: of the jobs that run only trainings can, and of those that wait "
    "trainings and changes of a corpus's documents. A target is withdrawn or replaced instead."
)


class JobStore:
    """Jobs; with a `tenant`, those that a key of that tenant asked for."""

    def __init__(self, database: Database, tenant: str | None = None) -> None:
        self._database, self._tenant = database, tenant

    def find(self, job_id: str) -> JobRecord:
        """One job.

        Raises:
            NotFound: there is no such job.
        """
        with self._database.read() as connection:
            return self._get(connection, job_id)

    def page(self, after: str | None, limit: int) -> list[JobRecord]:
        """Up to `limit` jobs older than the job `after`, newest first.

        Raises:
            NotFound: there is no job `after`.
        """
        query = select(jobs).where(self._asked()).order_by(jobs.c.number.desc()).limit(limit)
        if after is not None:
            query = query.where(jobs.c.number < self.find(after).number)
        with self._database.read() as connection:
            return load_jobs(connection, query)

    def cancel(self, job_id: str) -> JobRecord:
        """End a job that can be ended without leaving anything half done.

        A training at any time; its worker then discards it. Of the others those that have not begun
        and whose request changed nothing yet.

        Raises:
            NotFound: there is no such job.
            Conflict: it has ended, or cannot be cancelled.
        """
        ended = {
            "state": JobState.CANCELLED,
            "message": "cancelled",
            "finished_at": time.time(),
        }
        with self._database.write() as connection:
            job = self._get(connection, job_id)
            if job.state in FINAL_STATES:
                raise Conflict("The job has ended.")
            if job.state not in _CANCELLABLE.get(job.kind, ()):
                raise Conflict(_LEFT_TO_RUN)
            here = jobs.c.number == job.number
            connection.execute(update(jobs).where(here).values(ended))
            texts = training_jobs.c.job_number == job.number
            connection.execute(update(training_jobs).where(texts).values(payload={}))
            return load_jobs(connection, select(jobs).where(here))[0]

    def _get(self, connection: Connection, job_id: str) -> JobRecord:
        found = load_jobs(connection, select(jobs).where(jobs.c.id == job_id, self._asked()))
        if not found:
            raise NotFound("There is no such job.")
        return found[0]

    def _asked(self) -> ColumnElement[bool]:
        """Which jobs are there."""
        return true() if self._tenant is None else jobs.c.tenant == self._tenant
