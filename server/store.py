"""The operator's side of the store: forget targets, and the policies that were put in force.

A change and its job are committed in one transaction, so what was acknowledged is never lost. Knows
nothing of compiling; `server.worklist` is the worker's side of the same tables.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, insert, select, true, update
from sqlalchemy.exc import IntegrityError

from server.database import Database
from server.errors import Conflict, InvalidField, NotFound
from server.job_rows import add_job, supersede
from server.job_store import JobStore
from server.on_conflict import OnConflict
from server.records import GenerationRecord, JobRecord, TargetRecord
from server.replays import Replays, forget_old
from server.schemas import TargetIn
from server.statistics.store import StatisticsStore
from server.tables import JobKind, TargetStatus, generations, targets, versions
from server.target_rows import (
    add_targets,
    add_version,
    add_versions,
    changed_columns,
    check_match,
    find_target,
    get_target,
    replace_targets,
    taken,
    taken_on,
    withdraw_target,
)


@dataclass(frozen=True, slots=True)
class ImportRecord:
    """What an import stored, and the job that brings it into force, if it stored anything."""

    registered: int
    replaced: int
    skipped: int
    job: JobRecord | None


class Store:
    """Forget targets and generations, as the admin API sees them.

    With a `tenant`, as a key of that tenant sees them: other targets are not there, and what is
    stored is the tenant's.
    """

    def __init__(self, database: Database, tenant: str | None = None) -> None:
        self._database, self._tenant = database, tenant

    def limited_to(self, tenant: str | None) -> Store:
        """The same store as a tenant sees it; as it is for None."""
        return self if tenant is None else Store(self._database, tenant)

    def jobs(self) -> JobStore:
        """The jobs, of the same database and tenant."""
        return JobStore(self._database, self._tenant)

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
            known = find_target(connection, target.id)
            if known is not None:
                raise taken(known)
            row = {"id": target.id, "revision": 1, "created_at": now} | changed_columns(target, now)
            try:
                connection.execute(insert(targets).values(row))
            except IntegrityError:  # another control process was faster
                raise Conflict("A target with this id exists.", param="id") from None
            add_version(connection, target, 1)
            job = add_job(connection, JobKind.REGISTER, {target.id: 1}, self._tenant)
            return get_target(connection, target.id), job

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
                raise taken(known)
            revision = known.revision + 1
            changed = {"revision": revision} | changed_columns(target, time.time())
            connection.execute(update(targets).where(targets.c.id == target.id).values(changed))
            add_version(connection, target, revision)
            supersede(connection, target.id)
            job = add_job(connection, JobKind.REPLACE, {target.id: revision}, self._tenant)
            return get_target(connection, target.id), job

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
                    raise taken_on(line, row.status)
                elif on_conflict is OnConflict.REPLACE:
                    replaced.append(target)
                    revisions[target.id] = row.revision + 1
            revisions |= {target.id: 1 for target in fresh}
            add_targets(connection, fresh, now)
            replace_targets(connection, replaced, revisions, now)
            add_versions(connection, [*fresh, *replaced], revisions, now)
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
                raise taken(known)
            return withdraw_target(connection, known, kind, self._tenant)

    def expire(self, now: float) -> list[JobRecord]:
        """Withdraw every target whose time is over; answers that were kept for a day go, too."""
        due = (targets.c.expires_at <= now) & (targets.c.status != TargetStatus.WITHDRAWN)
        with self._database.write() as connection:
            forget_old(connection, now)
            rows = connection.execute(select(targets).where(due)).all()
            return [
                withdraw_target(connection, TargetRecord.of(row), JobKind.EXPIRE)[1] for row in rows
            ]

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
        found = get_target(connection, target_id)
        if self._tenant not in (None, found.tenant):
            raise NotFound("There is no such target.")
        return found

    def _seen(self) -> ColumnElement[bool]:
        """Which targets are there."""
        return true() if self._tenant is None else targets.c.tenant == self._tenant
