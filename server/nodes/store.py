"""The nodes in the store: who they are, whether they are fenced, what they said last."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, insert, select, update

from server.database import Database, Write
from server.errors import Conflict, NotFound
from server.nodes.table import nodes
from server.nodes.wire import NodeReport

MAX_NODES = 1000


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A node; times are seconds since the epoch."""

    id: str
    key_id: str
    fenced: bool
    report: NodeReport
    created_at: float
    seen_at: float


class NodeStore:
    """Transactions about nodes. `write` begins those that may write."""

    def __init__(self, database: Database, write: Write | None = None) -> None:
        self._database = database
        self._write = write or database.write

    def all(self) -> list[NodeRecord]:
        """Every node, by id."""
        with self._database.read() as connection:
            rows = connection.execute(select(nodes).order_by(nodes.c.id))
            return [
                NodeRecord(
                    id=row.id,
                    key_id=row.key_id,
                    fenced=bool(row.fenced),
                    report=NodeReport.model_validate(row.report),
                    created_at=row.created_at,
                    seen_at=row.seen_at,
                )
                for row in rows
            ]

    def save(self, record: NodeRecord) -> None:
        """Keep what a node said; whether it is fenced stays as it is.

        Raises:
            Conflict: there are `MAX_NODES` others.
        """
        said = {
            "instance": record.report.instance,
            "key_id": record.key_id,
            "report": record.report.model_dump(mode="json"),
            "seen_at": record.seen_at,
        }
        with self._write() as connection:
            here = nodes.c.id == record.id
            if connection.execute(update(nodes).where(here).values(said)).rowcount:
                return
            _check_room(connection)
            new = {"id": record.id, "fenced": record.fenced, "created_at": record.created_at}
            connection.execute(insert(nodes).values(new | said))

    def set_fenced(self, node_id: str, fenced: bool) -> None:
        """Fence a node, or let it serve again.

        Raises:
            NotFound: there is no such node.
        """
        with self._write() as connection:
            here = nodes.c.id == node_id
            if not connection.execute(update(nodes).where(here).values(fenced=fenced)).rowcount:
                raise unknown_node()

    def delete(self, node_id: str) -> None:
        """Forget a node.

        Raises:
            NotFound: there is no such node.
        """
        with self._write() as connection:
            if not connection.execute(delete(nodes).where(nodes.c.id == node_id)).rowcount:
                raise unknown_node()


def unknown_node() -> NotFound:
    """There is no such node."""
    return NotFound("There is no such node.")


def _check_room(connection: Connection) -> None:
    if (connection.scalar(select(func.count()).select_from(nodes)) or 0) >= MAX_NODES:
        raise Conflict(f"There are {MAX_NODES} nodes already: forget some.")
