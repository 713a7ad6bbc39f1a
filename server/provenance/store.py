"""The store's side of corpora: what the operator asked for, and the jobs that bring it about.

A change and its job are one transaction. Document text is never here: it is in the index, and on
its way there in an upload's file.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from server.database import Database, Write
from server.error_table import row_of
from server.errors import Conflict, NotFound, ServerError
from server.etags import content_etag, require_match
from server.job_rows import add_job, load_jobs
from server.provenance.schemas import CorpusIn
from server.records import JobRecord
from server.tables import (
    CORPUS_KINDS,
    CorpusStatus,
    JobKind,
    JobState,
    corpora,
    corpus_documents,
    corpus_jobs,
    jobs,
)

_BATCH = 5_000


@dataclass(frozen=True, slots=True)
class CorpusRecord:
    """A corpus in the store; times are seconds since the epoch."""

    id: str
    settings: CorpusIn
    directory: str
    status: CorpusStatus
    created_at: float
    updated_at: float

    @classmethod
    def of(cls, row: Row[Any]) -> CorpusRecord:
        """From a row of `corpora`."""
        return cls(
            id=row.id,
            settings=CorpusIn.model_validate(row.settings),
            directory=row.directory,
            status=CorpusStatus(row.status),
            created_at=row.created_at,
            updated_at=row.updated_at,
        )

    @property
    def etag(self) -> str:
        """Differs for all settings, and for a corpus that took the id of a withdrawn one."""
        return content_etag(self.created_at, self.settings.model_dump(mode="json"))


@dataclass(frozen=True, slots=True)
class DocumentRecord:
    """What the store knows of a document."""

    number: int
    source: str
    sha256: str
    characters: int
    created_at: float


@dataclass(frozen=True, slots=True)
class CorpusJob:
    """A job taken for work; `payload` says what to do."""

    job: JobRecord
    corpus_id: str
    payload: Mapping[str, Any]


class CorpusStore:
    """Corpora, their documents and their jobs."""

    def __init__(self, database: Database, write: Write | None = None) -> None:
        """`write` begins the transactions that may write, by default the database's own."""
        self._database = database
        self._write = write or database.write

    def create(self, corpus: CorpusIn) -> JobRecord:
        """Store a new corpus and its job.

        Raises:
            Conflict: the id is taken, also by a corpus that is being withdrawn.
        """
        now = time.time()
        row = {
            "id": corpus.id,
            "settings": corpus.model_dump(mode="json"),
            "directory": f"{corpus.id}-{uuid.uuid4().hex[:12]}",
            "status": CorpusStatus.PENDING,
            "created_at": now,
            "updated_at": now,
        }
        with self._write() as connection:
            if _find(connection, corpus.id) is not None:
                raise Conflict("A corpus with this id exists.", param="id")
            try:
                connection.execute(insert(corpora).values(row))
            except IntegrityError:  # another control process was faster
                raise Conflict("A corpus with this id exists.", param="id") from None
            return _queue(connection, JobKind.CORPUS_CREATE, corpus.id, {})

    def change(
        self,
        corpus_id: str,
        change: Callable[[CorpusIn], CorpusIn],
        if_match: str | None = None,
    ) -> JobRecord:
        """Store other settings of a corpus, and the job that brings them into force.

        Raises:
            NotFound: there is no such corpus.
            Conflict: it is being withdrawn.
            PreconditionFailed: `if_match` names other settings.
        """
        with self._database.write() as connection:
            known = _get(connection, corpus_id)
            require_match(known.etag, if_match, "corpus")
            if known.status is CorpusStatus.WITHDRAWN:
                raise Conflict("The corpus is being withdrawn.", param="id")
            settings = change(known.settings).model_dump(mode="json")
            values = {"settings": settings, "updated_at": time.time()}
            connection.execute(update(corpora).where(corpora.c.id == corpus_id).values(values))
            return _queue(connection, JobKind.CORPUS_CHANGE, corpus_id, {})

    def request(
        self,
        kind: JobKind,
        corpus_id: str,
        payload: Mapping[str, Any],
        if_match: str | None = None,
    ) -> JobRecord:
        """Queue a job on a corpus.

        Raises:
            NotFound: there is no such corpus.
            Conflict: it is being withdrawn, which may be asked for again if its job failed.
            PreconditionFailed: `if_match` names other settings.
        """
        with self._write() as connection:
            known = _get(connection, corpus_id)
            require_match(known.etag, if_match, "corpus")
            withdrawn = known.status is CorpusStatus.WITHDRAWN
            if withdrawn and kind is not JobKind.CORPUS_DELETE:
                raise Conflict("The corpus is being withdrawn.", param="id")
            if kind is JobKind.CORPUS_DELETE:
                _set_status(connection, corpus_id, CorpusStatus.WITHDRAWN)
            return _queue(connection, kind, corpus_id, payload)

    def corpus(self, corpus_id: str) -> CorpusRecord:
        """A corpus.

        Raises:
            NotFound: there is none of that id.
        """
        with self._database.read() as connection:
            return _get(connection, corpus_id)

    def page(self, after: str | None, limit: int) -> list[CorpusRecord]:
        """Up to `limit` corpora with ids greater than `after`, in order."""
        query = select(corpora).order_by(corpora.c.id).limit(limit)
        if after is not None:
            query = query.where(corpora.c.id > after)
        with self._database.read() as connection:
            return [CorpusRecord.of(row) for row in connection.execute(query)]

    def all(self) -> list[CorpusRecord]:
        """Every corpus, in order of their ids."""
        with self._database.read() as connection:
            query = select(corpora).order_by(corpora.c.id)
            return [CorpusRecord.of(row) for row in connection.execute(query)]

    def documents(self, corpus_id: str, after: int | None, limit: int) -> list[DocumentRecord]:
        """Up to `limit` documents with numbers greater than `after`, in order."""
        query = select(corpus_documents).where(corpus_documents.c.corpus_id == corpus_id)
        if after is not None:
            query = query.where(corpus_documents.c.number > after)
        query = query.order_by(corpus_documents.c.number).limit(limit)
        with self._database.read() as connection:
            _get(connection, corpus_id)
            return [
                DocumentRecord(r.number, r.source, r.sha256, r.characters, r.created_at)
                for r in connection.execute(query)
            ]

    def known_digests(self, corpus_id: str, digests: Sequence[str]) -> set[str]:
        """Which of these SHA-256s are of documents that the corpus has."""
        found: set[str] = set()
        here = corpus_documents.c.corpus_id == corpus_id
        with self._database.read() as connection:
            for first in range(0, len(digests), 500):
                part = corpus_documents.c.sha256.in_(digests[first : first + 500])
                query = select(corpus_documents.c.sha256).where(here & part)
                found.update(connection.scalars(query))
        return found

    def count_documents(self) -> dict[str, int]:
        """How many documents each corpus has, those without any left out."""
        query = select(corpus_documents.c.corpus_id, func.count()).group_by(
            corpus_documents.c.corpus_id
        )
        with self._database.read() as connection:
            return {row[0]: int(row[1]) for row in connection.execute(query)}

    def count_characters(self, corpus_ids: Collection[str]) -> int:
        """How many characters the documents of these corpora have."""
        here = corpus_documents.c.corpus_id.in_(list(corpus_ids))
        query = select(func.sum(corpus_documents.c.characters)).where(here)
        with self._database.read() as connection:
            return int(connection.scalar(query) or 0)

    def recover(self) -> None:
        """Queue again what a dead process was running."""
        running = (jobs.c.state == JobState.RUNNING) & jobs.c.kind.in_(CORPUS_KINDS)
        queued = {"state": JobState.QUEUED, "progress": 0.0, "message": "resumed"}
        with self._write() as connection:
            connection.execute(update(jobs).where(running).values(queued))

    def take(self) -> CorpusJob | None:
        """Set the oldest queued job to running and return it."""
        waiting = (jobs.c.state == JobState.QUEUED) & jobs.c.kind.in_(CORPUS_KINDS)
        query = select(jobs).where(waiting).order_by(jobs.c.number).limit(1)
        started = {"state": JobState.RUNNING, "started_at": time.time()}
        with self._write() as connection:
            found = load_jobs(connection, query)
            if not found:
                return None
            number = jobs.c.number == found[0].number
            connection.execute(update(jobs).where(number).values(started))
            link = corpus_jobs.c.job_number == found[0].number
            row = connection.execute(select(corpus_jobs).where(link)).one()
            return CorpusJob(found[0], row.corpus_id, dict(row.payload))

    def uploads_waiting(self) -> set[str]:
        """Files of uploads whose job has not ended."""
        open_states = (JobState.QUEUED, JobState.RUNNING)
        query = (
            select(corpus_jobs.c.payload)
            .join(jobs, jobs.c.number == corpus_jobs.c.job_number)
            .where(jobs.c.state.in_(open_states))
        )
        with self._database.read() as connection:
            payloads = connection.scalars(query).all()
        return {payload["upload"] for payload in payloads if "upload" in payload}

    def upload_of(self, job: JobRecord) -> str | None:
        """The file of a job's upload, if it has one."""
        query = select(corpus_jobs.c.payload).where(corpus_jobs.c.job_number == job.number)
        with self._database.read() as connection:
            payload = connection.scalar(query) or {}
        upload: str | None = payload.get("upload")
        return upload

    def note_payload(self, job: CorpusJob, payload: Mapping[str, Any]) -> None:
        """Remember how far a job is, so that a resumed one does not do it twice."""
        link = corpus_jobs.c.job_number == job.job.number
        with self._write() as connection:
            connection.execute(update(corpus_jobs).where(link).values(payload=dict(payload)))

    def report_progress(self, job: CorpusJob, message: str, progress: float) -> None:
        """Show how far a job is; `progress` is in 0..1."""
        shown = {"message": message[:200], "progress": min(max(progress, 0.0), 1.0)}
        with self._write() as connection:
            connection.execute(update(jobs).where(jobs.c.number == job.job.number).values(shown))

    def add_documents(self, corpus_id: str, records: Iterable[DocumentRecord]) -> None:
        """Remember documents that the index has; those that are known already stay as they are."""
        rows: list[dict[str, Any]] = [
            {
                "corpus_id": corpus_id,
                "number": record.number,
                "source": record.source,
                "sha256": record.sha256,
                "characters": record.characters,
                "created_at": record.created_at,
            }
            for record in records
        ]
        here = corpus_documents.c.corpus_id == corpus_id
        with self._write() as connection:
            numbers = [row["number"] for row in rows]
            if not numbers:
                return
            span = corpus_documents.c.number.between(min(numbers), max(numbers))
            known = set(
                connection.scalars(select(corpus_documents.c.number).where(here & span)).all()
            )
            fresh = [row for row in rows if row["number"] not in known]
            for first in range(0, len(fresh), _BATCH):
                connection.execute(insert(corpus_documents), fresh[first : first + _BATCH])

    def remove_documents(self, corpus_id: str, numbers: Sequence[int]) -> None:
        """Forget documents that the index no longer has."""
        here = corpus_documents.c.corpus_id == corpus_id
        with self._write() as connection:
            gone = here & corpus_documents.c.number.in_(list(numbers))
            connection.execute(delete(corpus_documents).where(gone))

    def delete_corpus(self, corpus_id: str) -> None:
        """Forget a corpus."""
        with self._write() as connection:
            connection.execute(
                delete(corpus_documents).where(corpus_documents.c.corpus_id == corpus_id)
            )
            connection.execute(delete(corpora).where(corpora.c.id == corpus_id))

    def set_status(self, corpus_id: str, status: CorpusStatus) -> None:
        """Change a corpus's status, unless it is being withdrawn."""
        with self._write() as connection:
            _set_status(connection, corpus_id, status)

    def finish(self, job: CorpusJob, message: str, generation: int) -> None:
        """A job is done: its change is in force with this generation of the corpora."""
        ended = {
            "state": JobState.DONE,
            "progress": 1.0,
            "message": message,
            "generation": generation,
            "finished_at": time.time(),
        }
        with self._write() as connection:
            connection.execute(update(jobs).where(jobs.c.number == job.job.number).values(ended))

    def fail(self, job: CorpusJob, fault: ServerError) -> None:
        """A job came to nothing, or its change is not in force everywhere."""
        ended = {
            "state": JobState.FAILED,
            "message": "",
            "error_code": row_of(fault).code,
            "error_message": str(fault),
            "finished_at": time.time(),
        }
        with self._write() as connection:
            connection.execute(update(jobs).where(jobs.c.number == job.job.number).values(ended))


def _queue(
    connection: Connection, kind: JobKind, corpus_id: str, payload: Mapping[str, Any]
) -> JobRecord:
    job = add_job(connection, kind, {})
    link = {"job_number": job.number, "corpus_id": corpus_id, "payload": dict(payload)}
    connection.execute(insert(corpus_jobs).values(link))
    return load_jobs(connection, select(jobs).where(jobs.c.number == job.number))[0]


def _set_status(connection: Connection, corpus_id: str, status: CorpusStatus) -> None:
    here = (corpora.c.id == corpus_id) & (corpora.c.status != CorpusStatus.WITHDRAWN)
    values = {"status": status, "updated_at": time.time()}
    connection.execute(update(corpora).where(here).values(values))


def _find(connection: Connection, corpus_id: str) -> CorpusRecord | None:
    row = connection.execute(select(corpora).where(corpora.c.id == corpus_id)).first()
    return CorpusRecord.of(row) if row is not None else None


def _get(connection: Connection, corpus_id: str) -> CorpusRecord:
    found = _find(connection, corpus_id)
    if found is None:
        raise NotFound("There is no such corpus.")
    return found
