"""The operator's side of the store: forget targets and the jobs that bring them into force.

A change and its job are committed in one transaction, so what was acknowledged is never lost. Knows
nothing of compiling; `server.worklist` is the worker's side of the same tables.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    bindparam,
    delete,
    func,
    insert,
    select,
    true,
    update,
)
from sqlalchemy.exc import IntegrityError

from server.database import Database
from server.errors import Conflict, InvalidField, NotFound
from server.etags import require_match
from server.on_conflict import OnConflict
from server.records import GenerationRecord, JobRecord, TargetRecord, summarise
from server.replays import Replays
from server.schemas import TargetIn
from server.statistics.store import StatisticsStore
from server.tables import (
    FINAL_STATES,
    OTHER_KINDS,
    JobKind,
    JobState,
    TargetStatus,
    corpus_jobs,
    generations,
    job_targets,
    jobs,
    targets,
    training_jobs,
    versions,
)

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
_BATCH = 500


@dataclass(frozen=True, slots=True)
class ImportRecord:
    """What an import stored, and the job that brings it into force, if it stored anything."""

    registered: int
    replaced: int
    skipped: int
    job: JobRecord | None


class Store:
    """Forget targets, jobs and generations, as the admin API sees them.

    With a `tenant`, as a key of that tenant sees them: other targets and jobs are not there, and
    what is stored is the tenant's.
    """

    def __init__(self, database: Database, tenant: str | None = None) -> None:
        self._database, self._tenant = database, tenant

    def limited_to(self, tenant: str | None) -> Store:
        """The same store as a tenant sees it; as it is for None."""
        return self if tenant is None else Store(self._database, tenant)

    def replays(self) -> Replays:
        """The answers that are given again, of the same database."""
        return Replays(self._database)

    def statistics(self) -> StatisticsStore:
        """What gateways counted, of the same database."""
        return StatisticsStore(self._database)

    def register(self, target: TargetIn) -> tuple[TargetRecord, JobRecord]:
        """Store a new target and its job.

        Raises:
            Conflict: the id is taken, also by a target that is being withdrawn.
            InvalidField: it names another tenant than the store's.
        """
        now, target = time.time(), self._owned(target)
        with self._database.write() as connection:
            known = _find(connection, target.id)
            if known is not None:
                raise _taken(known)
            row = {"id": target.id, "revision": 1, "created_at": now} | _changed(target, now)
            try:
                connection.execute(insert(targets).values(row))
            except IntegrityError:  # another control process was faster
                raise Conflict("A target with this id exists.", param="id") from None
            _add_version(connection, target, 1)
            job = add_job(connection, JobKind.REGISTER, {target.id: 1}, self._tenant)
            return _get(connection, target.id), job

    def replace(
        self, target: TargetIn, if_match: str | None = None
    ) -> tuple[TargetRecord, JobRecord]:
        """Store a new revision of a target and its job; the revision in force rules until then.

        Raises:
            NotFound: there is no such target.
            Conflict: it is being withdrawn.
            PreconditionFailed: `if_match` names another revision.
            InvalidField: it names another tenant than the store's.
        """
        target = self._owned(target)
        with self._database.write() as connection:
            known = self._get(connection, target.id)
            check_match(known, if_match)
            if known.status is TargetStatus.WITHDRAWN:
                raise _taken(known)
            revision = known.revision + 1
            changed = {"revision": revision} | _changed(target, time.time())
            connection.execute(update(targets).where(targets.c.id == target.id).values(changed))
            _add_version(connection, target, revision)
            _supersede(connection, target.id)
            job = add_job(connection, JobKind.REPLACE, {target.id: revision}, self._tenant)
            return _get(connection, target.id), job

    def import_targets(
        self, wanted: Mapping[int, TargetIn], on_conflict: OnConflict
    ) -> ImportRecord:
        """Store many targets, given by line, and one job for all of them: all or none.

        Raises:
            Conflict: naming the line of a target that is there, or is being withdrawn.
            InvalidField: naming the line of one that names another tenant than the store's.
        """
        now, wanted = time.time(), self._all_owned(wanted)
        with self._database.write() as connection:
            query = select(targets.c.id, targets.c.revision, targets.c.status, targets.c.tenant)
            known = {row.id: row for row in connection.execute(query)}
            revisions: dict[str, int] = {}
            fresh, replaced = [], []
            for line, target in wanted.items():
                row = known.get(target.id)
                if row is None:
                    fresh.append(target)
                elif (
                    row.status == TargetStatus.WITHDRAWN
                    or on_conflict is OnConflict.FAIL
                    or self._tenant not in (None, row.tenant)
                ):
                    raise _taken_on(line, row.status)
                elif on_conflict is OnConflict.REPLACE:
                    replaced.append(target)
                    revisions[target.id] = row.revision + 1
            revisions |= {target.id: 1 for target in fresh}
            _add_many(connection, fresh, now)
            _replace_many(connection, replaced, revisions, now)
            _add_versions(connection, [*fresh, *replaced], revisions, now)
            job = (
                add_job(connection, JobKind.IMPORT, revisions, self._tenant) if revisions else None
            )
        skipped = len(wanted) - len(revisions)
        return ImportRecord(len(fresh), len(replaced), skipped, job)

    def count_existing(self, target_ids: Sequence[str]) -> int:
        """How many of these targets there are."""
        with self._database.read() as connection:
            known = set(connection.scalars(select(targets.c.id).where(self._seen())))
        return sum(target_id in known for target_id in target_ids)

    def withdraw(
        self, target_id: str, if_match: str | None = None, kind: JobKind = JobKind.WITHDRAW
    ) -> tuple[TargetRecord, JobRecord]:
        """Mark a target as withdrawn; its job takes it out of the policy and deletes it.

        Raises:
            NotFound: there is no such target.
            Conflict: it is being withdrawn already.
            PreconditionFailed: `if_match` names another revision.
        """
        with self._database.write() as connection:
            known = self._get(connection, target_id)
            check_match(known, if_match)
            if known.status is TargetStatus.WITHDRAWN:
                raise _taken(known)
            return _withdraw(connection, known, kind, self._tenant)

    def expire(self, now: float) -> list[JobRecord]:
        """Withdraw every target whose time is over."""
        due = (targets.c.expires_at <= now) & (targets.c.status != TargetStatus.WITHDRAWN)
        with self._database.write() as connection:
            rows = connection.execute(select(targets).where(due)).all()
            return [_withdraw(connection, TargetRecord.of(row), JobKind.EXPIRE)[1] for row in rows]

    def next_expiry(self) -> float | None:
        """When the next target expires, in seconds since the epoch."""
        with self._database.read() as connection:
            soonest = select(func.min(targets.c.expires_at)).where(
                targets.c.status != TargetStatus.WITHDRAWN
            )
            found: float | None = connection.scalar(soonest)
            return found

    def target(self, target_id: str) -> tuple[TargetRecord, dict[str, Any]]:
        """A target and its newest revision's document.

        Raises:
            NotFound: there is no such target.
        """
        with self._database.read() as connection:
            record = self._get(connection, target_id)
            newest = (versions.c.target_id == target_id) & (versions.c.revision == record.revision)
            document = connection.scalar(select(versions.c.document).where(newest))
            return record, dict(document or {})

    def versions(self, target_id: str) -> tuple[TargetRecord, list[tuple[int, float | None]]]:
        """A target, and its kept revisions with their times, newest first.

        Raises:
            NotFound: there is no such target.
        """
        query = select(versions.c.revision, versions.c.created_at).where(
            versions.c.target_id == target_id
        )
        with self._database.read() as connection:
            record = self._get(connection, target_id)
            rows = connection.execute(query.order_by(versions.c.revision.desc()))
            return record, [(row.revision, row.created_at) for row in rows]

    def version(self, target_id: str, revision: int) -> dict[str, Any]:
        """A kept revision's document.

        Raises:
            NotFound: there is no such target, or that revision is not kept.
        """
        here = (versions.c.target_id == target_id) & (versions.c.revision == revision)
        with self._database.read() as connection:
            self._get(connection, target_id)
            document = connection.scalar(select(versions.c.document).where(here))
            if document is None:
                raise NotFound("That revision of the target is not kept.")
            return dict(document)

    def document_page(self, after: str | None, limit: int) -> list[tuple[str, dict[str, Any]]]:
        """Up to `limit` targets' newest documents, by id, without those being withdrawn."""
        newest = (versions.c.target_id == targets.c.id) & (
            versions.c.revision == targets.c.revision
        )
        query = (
            select(targets.c.id, versions.c.document)
            .join(versions, newest)
            .where(targets.c.status != TargetStatus.WITHDRAWN, targets.c.id > (after or ""))
            .where(self._seen())
            .order_by(targets.c.id)
            .limit(limit)
        )
        with self._database.read() as connection:
            return [(row.id, dict(row.document)) for row in connection.execute(query)]

    def standing_targets(self, besides: str | None = None) -> list[TargetIn]:
        """The newest revision of every target that is not being withdrawn, by id."""
        newest = (versions.c.target_id == targets.c.id) & (
            versions.c.revision == targets.c.revision
        )
        query = (
            select(versions.c.document)
            .join(targets, newest)
            .where(targets.c.status != TargetStatus.WITHDRAWN, targets.c.id != (besides or ""))
            .where(self._seen())
            .order_by(targets.c.id)
        )
        with self._database.read() as connection:
            return [TargetIn.model_validate(row.document) for row in connection.execute(query)]

    def target_page(
        self, after: str | None, limit: int, search: str | None = None
    ) -> list[TargetRecord]:
        """Up to `limit` targets with ids greater than `after`, in order; `search`: that hold it."""
        query = select(targets).where(self._seen()).order_by(targets.c.id).limit(limit)
        if search is not None:
            query = query.where(targets.c.id.contains(search.lower(), autoescape=True))
        if after is not None:
            query = query.where(targets.c.id > after)
        with self._database.read() as connection:
            return [TargetRecord.of(row) for row in connection.execute(query)]

    def count_targets(self) -> dict[str, int]:
        """How many targets are in each status, zeros included."""
        counts = select(targets.c.status, func.count()).group_by(targets.c.status)
        with self._database.read() as connection:
            found = {row[0]: int(row[1]) for row in connection.execute(counts)}
        return {status.value: found.get(status, 0) for status in TargetStatus}

    def job(self, job_id: str) -> JobRecord:
        """One job.

        Raises:
            NotFound: there is no such job.
        """
        with self._database.read() as connection:
            query = select(jobs).where(jobs.c.id == job_id, self._asked())
            found = load_jobs(connection, query)
            if not found:
                raise NotFound("There is no such job.")
            return found[0]

    def job_page(self, after: str | None, limit: int) -> list[JobRecord]:
        """Up to `limit` jobs older than the job `after`, newest first.

        Raises:
            NotFound: there is no job `after`.
        """
        query = select(jobs).where(self._asked()).order_by(jobs.c.number.desc()).limit(limit)
        if after is not None:
            query = query.where(jobs.c.number < self.job(after).number)
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
            query = select(jobs).where(jobs.c.id == job_id, self._asked())
            found = load_jobs(connection, query)
            if not found:
                raise NotFound("There is no such job.")
            job = found[0]
            if job.state in FINAL_STATES:
                raise Conflict("The job has ended.")
            if job.state not in _CANCELLABLE.get(job.kind, ()):
                raise Conflict(_LEFT_TO_RUN)
            here = jobs.c.number == job.number
            connection.execute(update(jobs).where(here).values(ended))
            texts = training_jobs.c.job_number == job.number
            connection.execute(update(training_jobs).where(texts).values(payload={}))
            return load_jobs(connection, select(jobs).where(here))[0]

    def generation(self, number: int) -> GenerationRecord | None:
        """One activation; None if there was none of that number."""
        with self._database.read() as connection:
            query = select(generations).where(generations.c.number == number)
            row = connection.execute(query).first()
            return GenerationRecord.of(row) if row is not None else None

    def generation_page(self, after: int | None, limit: int) -> list[GenerationRecord]:
        """Up to `limit` activations before that of number `after`, newest first."""
        query = select(generations).order_by(generations.c.number.desc()).limit(limit)
        if after is not None:
            query = query.where(generations.c.number < after)
        with self._database.read() as connection:
            return [GenerationRecord.of(row) for row in connection.execute(query)]

    def _owned(self, target: TargetIn) -> TargetIn:
        """A target as this store keeps it.

        Raises:
            InvalidField: it names another tenant.
        """
        if self._tenant is None or target.tenant == self._tenant:
            return target
        if target.tenant is not None:
            raise InvalidField("tenant: must be that of your key", param="tenant")
        return target.model_copy(update={"tenant": self._tenant})

    def _all_owned(self, wanted: Mapping[int, TargetIn]) -> dict[int, TargetIn]:
        found = {}
        for line, target in wanted.items():
            try:
                found[line] = self._owned(target)
            except InvalidField as fault:
                raise InvalidField(f"line {line}: {fault}", param=fault.param) from None
        return found

    def _get(self, connection: Connection, target_id: str) -> TargetRecord:
        """A target that is seen here.

        Raises:
            NotFound: there is none.
        """
        found = _get(connection, target_id)
        if self._tenant not in (None, found.tenant):
            raise NotFound("There is no such target.")
        return found

    def _seen(self) -> ColumnElement[bool]:
        """Which targets are there."""
        return true() if self._tenant is None else targets.c.tenant == self._tenant

    def _asked(self) -> ColumnElement[bool]:
        """Which jobs are there."""
        return true() if self._tenant is None else jobs.c.tenant == self._tenant


def add_job(
    connection: Connection, kind: JobKind, changes: dict[str, int], tenant: str | None = None
) -> JobRecord:
    """Queue a job for these target revisions, within the caller's transaction.

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


def _find(connection: Connection, target_id: str) -> TargetRecord | None:
    row = connection.execute(select(targets).where(targets.c.id == target_id)).first()
    return TargetRecord.of(row) if row is not None else None


def _get(connection: Connection, target_id: str) -> TargetRecord:
    found = _find(connection, target_id)
    if found is None:
        raise NotFound("There is no such target.")
    return found


def _taken(known: TargetRecord) -> Conflict:
    if known.status is TargetStatus.WITHDRAWN:
        return Conflict("The target is being withdrawn; wait for its job to end.", param="id")
    return Conflict("A target with this id exists; replace it with PUT.", param="id")


def check_match(known: TargetRecord, if_match: str | None) -> None:
    """Check that `if_match` names the target's revision, any, or none at all.

    Raises:
        PreconditionFailed: it names another one.
    """
    require_match(known.etag, if_match, "target")


_CHANGED = (
    "status",
    "tenant",
    "summary",
    "error_code",
    "error_message",
    "expires_at",
    "updated_at",
)


def _changed(target: TargetIn, now: float) -> dict[str, Any]:
    """The columns that every new revision sets."""
    expires_at = target.expires_at
    return {
        "status": TargetStatus.PENDING,
        "tenant": target.tenant,
        "summary": summarise(target),
        "error_code": None,
        "error_message": None,
        "expires_at": expires_at.timestamp() if expires_at is not None else None,
        "updated_at": now,
    }


def _add_version(connection: Connection, target: TargetIn, revision: int) -> None:
    _add_versions(connection, [target], {target.id: revision}, time.time())


def _add_many(connection: Connection, fresh: Sequence[TargetIn], now: float) -> None:
    for batch in _batches(fresh):
        rows = [{"id": t.id, "revision": 1, "created_at": now} | _changed(t, now) for t in batch]
        connection.execute(insert(targets), rows)


def _replace_many(
    connection: Connection, replaced: Sequence[TargetIn], revisions: Mapping[str, int], now: float
) -> None:
    columns = ("revision", *_CHANGED)
    change = (
        update(targets)
        .where(targets.c.id == bindparam("target"))
        .values({name: bindparam(f"new_{name}") for name in columns})
    )
    for batch in _batches(replaced):
        rows = [
            {"target": t.id, "new_revision": revisions[t.id]}
            | {f"new_{name}": value for name, value in _changed(t, now).items()}
            for t in batch
        ]
        connection.execute(change, rows)


def _add_versions(
    connection: Connection, changed: Sequence[TargetIn], revisions: Mapping[str, int], now: float
) -> None:
    for batch in _batches(changed):
        rows = [
            {
                "target_id": target.id,
                "revision": revisions[target.id],
                "document": target.model_dump(mode="json"),
                "created_at": now,
            }
            for target in batch
        ]
        connection.execute(insert(versions), rows)


def _batches(changed: Sequence[TargetIn]) -> Iterator[Sequence[TargetIn]]:
    for first in range(0, len(changed), _BATCH):
        yield changed[first : first + _BATCH]


def _taken_on(line: int, status: str) -> Conflict:
    if status == TargetStatus.WITHDRAWN:
        reason = "the target is being withdrawn; wait for its job to end"
    else:
        reason = "a target with this id exists"
    return Conflict(f"line {line}: {reason}", param="id")


def _withdraw(
    connection: Connection, known: TargetRecord, kind: JobKind, tenant: str | None = None
) -> tuple[TargetRecord, JobRecord]:
    changed = {"status": TargetStatus.WITHDRAWN, "updated_at": time.time()}
    connection.execute(update(targets).where(targets.c.id == known.id).values(changed))
    _supersede(connection, known.id)
    job = add_job(connection, kind, {known.id: known.revision}, tenant)
    return _get(connection, known.id), job


def _supersede(connection: Connection, target_id: str) -> None:
    """Cancel the jobs of older revisions that have not begun; a training takes the newest."""
    older = select(job_targets.c.job_number).where(job_targets.c.target_id == target_id)
    # An import has other targets to bring into force too.
    others = (*OTHER_KINDS, JobKind.IMPORT)
    waiting = (
        jobs.c.number.in_(older) & (jobs.c.state == JobState.QUEUED) & jobs.c.kind.not_in(others)
    )
    ended = {"state": JobState.CANCELLED, "message": "superseded", "finished_at": time.time()}
    connection.execute(update(jobs).where(waiting).values(ended))


def delete_targets(connection: Connection, target_ids: Sequence[str]) -> None:
    """Delete withdrawn targets with all their revisions, within the caller's transaction."""
    for first in range(0, len(target_ids), _BATCH):
        gone = list(target_ids[first : first + _BATCH])
        connection.execute(delete(targets).where(targets.c.id.in_(gone)))
