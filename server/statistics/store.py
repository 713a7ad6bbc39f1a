"""The statistics in the store. Every gateway's numbers replace what it told before."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Table, bindparam, delete, insert, select, update

from server.database import Database, Write
from server.statistics.counts import RequestCounts, TargetCounts
from server.statistics.table import request_statistics, target_statistics
from server.statistics.tally import Tallied
from server.tables import targets

# Of gateways that have ended.
_ENDED = ""


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

    def close(self, running: Collection[str]) -> None:
        """Add up what other gateways than the running ones counted: they have ended."""
        with self._write() as connection:
            for table, make in (
                (target_statistics, TargetCounts),
                (request_statistics, RequestCounts),
            ):
                _add_up(connection, table, make, {*running, _ENDED})

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
    kept: Collection[str],
) -> None:
    """Add the rows of all sources but `kept` to that of the ended ones."""
    ended = table.c.source.not_in(list(kept))
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
