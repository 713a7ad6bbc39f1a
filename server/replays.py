"""The answers to requests with an Idempotency-Key, kept for a day.

Whoever sends a request again because its answer was lost gets that answer, and nothing is done
twice. A process that dies between doing and noting the answer leaves neither: after a minute such a
request is done again, as one without a key would be.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select, update

from server.database import Database
from server.errors import Conflict, IdempotencyMismatch
from server.tables import replays

KEPT_SECONDS = 24 * 3600.0
# Longer than any answer takes; whoever began before that is dead.
BEGUN_SECONDS = 60.0
MAX_BODY_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: status, headers in Latin-1, body in UTF-8."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: str


def forget_old(connection: Connection, now: float) -> None:
    """Delete answers that were kept for a day: they may hold what was said of a deleted target."""
    connection.execute(delete(replays).where(replays.c.created_at < now - KEPT_SECONDS))


class Replays:
    """Answers by the digest of their caller and key."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, key: str, request: str) -> Answer | None:
        """The answer that was given; None if the request is to be done now, under this key.

        Raises:
            IdempotencyMismatch: another request had this key.
            Conflict: the same request is being done.
        """
        now = time.time()
        here = replays.c.key_digest == key
        with self._database.write() as connection:
            forget_old(connection, now)
            row = connection.execute(select(replays).where(here)).first()
            if row is not None and row.request_digest != request:
                raise IdempotencyMismatch(
                    "Another request had this Idempotency-Key.", param="Idempotency-Key"
                )
            if row is not None and row.status is not None:
                return Answer(row.status, tuple((k, v) for k, v in row.headers), row.body)
            if row is not None and row.created_at > now - BEGUN_SECONDS:
                raise Conflict("A request with this key is being served.", param="Idempotency-Key")
            connection.execute(delete(replays).where(here))
            values = {"key_digest": key, "request_digest": request, "created_at": now}
            connection.execute(insert(replays).values(values))
        return None

    def finish(self, key: str, answer: Answer | None) -> None:
        """Keep the answer; None: the request may be done again under this key."""
        here = replays.c.key_digest == key
        with self._database.write() as connection:
            if answer is None:
                connection.execute(delete(replays).where(here))
            else:
                kept = {
                    "status": answer.status,
                    "headers": [list(pair) for pair in answer.headers],
                    "body": answer.body,
                }
                connection.execute(update(replays).where(here).values(kept))
