"""The statistics in the store. Every gateway's numbers replace what it told before.

A node tells sums of all its gateways, which only grow, so that of two messages the later one is
known by its numbers. A node that was forgotten and says nothing more is added to the ended ones;
its source stays for `CLOSED_SECONDS`, closed, so that nothing of it is added again.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Table,
    bindparam,
    delete,
    insert,
    select,
    update,
)

from server.database import Database, Write
from server.errors import Conflict
from server.statistics.counts import RequestCounts, TargetCounts
from server.statistics.table import request_statistics, target_statistics
from server.statistics.tally import Tallied
from server.tables import targets

_Counts = TypeVar("_Counts", TargetCounts, RequestCounts)
# Of gateways that have ended.
_ENDED = ""
_NODE = "node:"
# Beside the numbers of a node's requests: when it told them, and that nothing more is taken.
_TOLD_AT, _CLOSED = "told_at", "closed"
# A node that was forgotten may come again.
GONE_SECONDS = 24 * 3600.0
# That a node's numbers were added up is known for so long.
CLOSED_SECONDS = 90 * 24 * 3600.0


class StatisticsStore:
    """Reads and writes them; `write` begins a transaction that may write."""

    def __init__(self, database: Database, write: Write | None = None) -> None:
        self._database = database
        self._write = write or database.write

    def take(self, source: str, tallied: Tallied) -> None:
        """Put down all that a gateway has counted so far; of withdrawn targets nothing."""
        with self._write() as connection:
            rows = select(target_statistics).where(target_statistics.c.source == source)
            before = {row.target_id: row.counts for row in connection.execute(rows)}
            standing = set(connection.scalars(select(targets.c.id)))
            now = {
                target: counts.to_numbers()
                for target, counts in tallied.targets.items()
                if target in standing
            }
            _replace(connection, source, before, now)
            _put_requests(connection, source, tallied.requests.to_numbers())

    def hear(self, instance: str, tallied: Tallied) -> None:
        """Raise what a node told before to what it tells now; of withdrawn targets nothing.

        Raises:
            Conflict: its numbers were added up already.
        """
        source, told = _NODE + instance, list(tallied.targets)
        with self._write() as connection:
            own = request_statistics.c.source == source
            requests = connection.scalar(select(request_statistics.c.counts).where(own)) or {}
            if _CLOSED in requests:
                raise Conflict("What this node counted was added up: it was away for too long.")
            one = (target_statistics.c.source == source) & target_statistics.c.target_id.in_(told)
            rows = connection.execute(select(target_statistics).where(one))
            before = {row.target_id: row.counts for row in rows}
            standing = connection.scalars(select(targets.c.id).where(targets.c.id.in_(told)))
            now = {
                target: _raised(TargetCounts.of(before.get(target, {})), tallied.targets[target])
                for target in standing
            }
            _replace(connection, source, before, now)
            total = _raised(RequestCounts.of(requests), tallied.requests)
            _put_requests(connection, source, total | {_TOLD_AT: time.time()})

    def close(self, running: Collection[str]) -> None:
        """Add up what other gateways of this machine than the running ones counted: they ended."""
        with self._write() as connection:
            for table, make in _TABLES:
                source = table.c.source
                here = ~source.startswith(_NODE, autoescape=True)
                _add_up(connection, table, make, here & source.not_in([*running, _ENDED]))

    def close_nodes(self, known: Collection[str]) -> None:
        """Add up what nodes counted that are not among the known ones, and silent for a day."""
        nodes = request_statistics.c.source.startswith(_NODE, autoescape=True)
        now = time.time()
        with self._write() as connection:
            rows = connection.execute(select(request_statistics).where(nodes)).all()
            told_at = {row.source: row.counts.get(_TOLD_AT, now) for row in rows}
            closed = {row.source for row in rows if _CLOSED in row.counts}
            old = [source for source in closed if told_at[source] < now - CLOSED_SECONDS]
            gone = [
                source
                for source in told_at.keys() - closed
                if source.removeprefix(_NODE) not in known and told_at[source] < now - GONE_SECONDS
            ]
            if old:
                here = request_statistics.c.source.in_(old)
                connection.execute(delete(request_statistics).where(here))
            if not gone:
                return
            for table, make in _TABLES:
                _add_up(connection, table, make, table.c.source.in_(gone))
            marks = [{"source": s, "counts": {_CLOSED: 1, _TOLD_AT: now}} for s in gone]
            connection.execute(insert(request_statistics), marks)

    def of(self, target_ids: Sequence[str]) -> dict[str, TargetCounts]:
        """The numbers of these targets; zeros where nothing was counted."""
        query = select(target_statistics).where(target_statistics.c.target_id.in_(target_ids))
        found = {target_id: TargetCounts() for target_id in target_ids}
        with self._database.read() as connection:
            for row in connection.execute(query):
                found[row.target_id].add(TargetCounts.of(row.counts))
        return found

    def everything(self) -> dict[str, TargetCounts]:
        """The numbers of all targets of which anything was counted."""
        found: dict[str, TargetCounts] = {}
        with self._database.read() as connection:
            for row in connection.execute(select(target_statistics)):
                found.setdefault(row.target_id, TargetCounts()).add(TargetCounts.of(row.counts))
        return found

    def requests(self) -> RequestCounts:
        """The numbers of all requests."""
        total = RequestCounts()
        with self._database.read() as connection:
            for counts in connection.scalars(select(request_statistics.c.counts)):
                total.add(RequestCounts.of(counts))
        return total


_TABLES: tuple[tuple[Table, type[TargetCounts] | type[RequestCounts]], ...] = (
    (target_statistics, TargetCounts),
    (request_statistics, RequestCounts),
)


def _raised(before: _Counts, told: _Counts) -> dict[str, float]:
    before.raise_to(told)
    return before.to_numbers()


def _replace(
    connection: Connection,
    source: str,
    before: Mapping[str, Mapping[str, float]],
    now: Mapping[str, Mapping[str, float]],
) -> None:
    here = target_statistics.c.source == source
    gone = [target for target in before if target not in now]
    if gone:
        one = target_statistics.c.target_id == bindparam("target")
        rows = [{"target": target} for target in gone]
        connection.execute(delete(target_statistics).where(here & one), rows)
    fresh = [
        {"target_id": target, "source": source, "counts": counts}
        for target, counts in now.items()
        if target not in before
    ]
    if fresh:
        connection.execute(insert(target_statistics), fresh)
    changed = [
        {"target": target, "new_counts": counts}
        for target, counts in now.items()
        if target in before and before[target] != counts
    ]
    if changed:
        one = target_statistics.c.target_id == bindparam("target")
        change = update(target_statistics).where(here & one)
        connection.execute(change.values(counts=bindparam("new_counts")), changed)


def _put_requests(connection: Connection, source: str, counts: Mapping[str, float]) -> None:
    here = request_statistics.c.source == source
    connection.execute(delete(request_statistics).where(here))
    connection.execute(insert(request_statistics).values(source=source, counts=dict(counts)))


def _add_up(
    connection: Connection,
    table: Table,
    make: type[TargetCounts] | type[RequestCounts],
    ended: ColumnElement[bool],
) -> None:
    """Add the rows of these sources to that of the ended ones."""
    keys = [column for column in table.primary_key.columns if column.name != "source"]
    left = connection.execute(select(table).where(ended)).all()
    if not left:
        return
    sums: dict[tuple[Any, ...], Any] = {}
    for row in [*left, *connection.execute(select(table).where(table.c.source == _ENDED))]:
        key = tuple(getattr(row, column.name) for column in keys)
        sums.setdefault(key, make()).add(make.of(row.counts))
    connection.execute(delete(table).where(ended | (table.c.source == _ENDED)))
    rows = [
        {
            **dict(zip((column.name for column in keys), key, strict=True)),
            "source": _ENDED,
            "counts": total.to_numbers(),
        }
        for key, total in sums.items()
    ]
    connection.execute(insert(table), rows)
