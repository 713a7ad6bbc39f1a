"""Rows of forget targets and of their revisions, within a transaction of the caller's."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from server.errors import Conflict, NotFound
from server.etags import require_match
from server.job_rows import add_job, supersede
from server.records import JobRecord, TargetRecord, summarise
from server.schemas import TargetIn
from server.tables import JobKind, TargetStatus, targets, versions

_BATCH = 500
_CHANGED = (
    "status",
    "tenant",
    "summary",
    "error_code",
    "error_message",
    "expires_at",
    "updated_at",
)


def find_target(connection: Connection, target_id: str) -> TargetRecord | None:
    """A target; None if there is none of that id."""
    row = connection.execute(select(targets).where(targets.c.id == target_id)).first()
    return TargetRecord.of(row) if row is not None else None


def get_target(connection: Connection, target_id: str) -> TargetRecord:
    """A target.

    Raises:
        NotFound: there is none of that id.
    """
    found = find_target(connection, target_id)
    if found is None:
        raise NotFound("There is no such target.")
    return found


def taken(known: TargetRecord) -> Conflict:
    """Why its id cannot be had."""
    if known.status is TargetStatus.WITHDRAWN:
        return Conflict("The target is being withdrawn; wait for its job to end.", param="id")
    return Conflict("A target with this id exists; replace it with PUT.", param="id")


def taken_on(line: int, status: str) -> Conflict:
    """Why the id on a line of an import cannot be had; `status` is the present target's."""
    if status == TargetStatus.WITHDRAWN:
        reason = "the target is being withdrawn; wait for its job to end"
    else:
        reason = "a target with this id exists"
    return Conflict(f"line {line}: {reason}", param="id")


def check_match(known: TargetRecord, if_match: str | None) -> None:
    """Check that `if_match` names the target's revision, any, or none at all.

    Raises:
        PreconditionFailed: it names another one.
    """
    require_match(known.etag, if_match, "target")


def changed_columns(target: TargetIn, now: float) -> dict[str, Any]:
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


def add_version(connection: Connection, target: TargetIn, revision: int) -> None:
    """Keep a revision of a target."""
    add_versions(connection, [target], {target.id: revision}, time.time())


def add_targets(connection: Connection, fresh: Sequence[TargetIn], now: float) -> None:
    """Add the rows of new targets."""
    for batch in _batches(fresh):
        rows = [
            {"id": t.id, "revision": 1, "created_at": now} | changed_columns(t, now) for t in batch
        ]
        connection.execute(insert(targets), rows)


def replace_targets(
    connection: Connection, replaced: Sequence[TargetIn], revisions: Mapping[str, int], now: float
) -> None:
    """Move targets to new revisions; `revisions` are their numbers."""
    columns = ("revision", *_CHANGED)
    change = (
        update(targets)
        .where(targets.c.id == bindparam("target"))
        .values({name: bindparam(f"new_{name}") for name in columns})
    )
    for batch in _batches(replaced):
        rows = [
            {"target": t.id, "new_revision": revisions[t.id]}
            | {f"new_{name}": value for name, value in changed_columns(t, now).items()}
            for t in batch
        ]
        connection.execute(change, rows)


def add_versions(
    connection: Connection, changed: Sequence[TargetIn], revisions: Mapping[str, int], now: float
) -> None:
    """Keep revisions of many targets; `revisions` are their numbers."""
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


def withdraw_target(
    connection: Connection, known: TargetRecord, kind: JobKind, tenant: str | None = None
) -> tuple[TargetRecord, JobRecord]:
    """Mark a target as withdrawn and queue its job; `tenant` is that of the key that asks."""
    changed = {"status": TargetStatus.WITHDRAWN, "updated_at": time.time()}
    connection.execute(update(targets).where(targets.c.id == known.id).values(changed))
    supersede(connection, known.id)
    job = add_job(connection, kind, {known.id: known.revision}, tenant)
    return get_target(connection, known.id), job


def delete_targets(connection: Connection, target_ids: Sequence[str]) -> None:
    """Delete withdrawn targets with all their revisions."""
    for first in range(0, len(target_ids), _BATCH):
        gone = list(target_ids[first : first + _BATCH])
        connection.execute(delete(targets).where(targets.c.id.in_(gone)))


def _batches(changed: Sequence[TargetIn]) -> Iterator[Sequence[TargetIn]]:
    for first in range(0, len(changed), _BATCH):
        yield changed[first : first + _BATCH]
