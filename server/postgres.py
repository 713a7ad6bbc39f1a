"""PostgreSQL as the store's database, with the guarantees that SQLite gives.

One writer at a time, of all processes: a transaction that may write first takes one advisory lock,
so that all it reads stays as it is until it commits, and nothing ever has to be tried again. The
store is written a few times a second at most. Readers wait for nobody and see one consistent state.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

WRITE = "lethegate_write"
# Any number that no other program on the same database takes: "lethe" in ASCII.
WRITE_LOCK = 0x6C65746865
_CONNECT_SECONDS = 10
_LOCK_SECONDS = 30
_MIGRATION_SECONDS = 900
# A holder of the lock that is stopped or cut off is thrown out by the server.
_IDLE_SECONDS = 60
_REFUSALS = {
    "password authentication failed": "the user or the password is wrong",
    "no password supplied": "the server asks for a password",
    "role +does not exist": "there is no such user",
    "database +does not exist": "there is no such database",
    "permission denied for database": "the user may not use the database",
    "pg_hba.conf": "the server's pg_hba.conf lets nobody in this way",
    "does not support SSL": "the server does not speak TLS",
    "certificate": "the server's certificate, or this side's, is not accepted",
    "invalid sslmode|sslmode value": "there is no such sslmode",
}
_KEEPALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}


def open_postgres(url: URL) -> Engine:
    """An engine on a PostgreSQL database; nothing is connected yet.

    Raises `ImportError` where the URL asks for a driver that is not installed.
    """
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    engine = create_engine(
        url,
        hide_parameters=True,
        pool_pre_ping=True,
        connect_args={"connect_timeout": _CONNECT_SECONDS, **_KEEPALIVE},
    )
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    return engine


@contextmanager
def migrating(engine: Engine) -> Iterator[Connection]:
    """A transaction with the write lock, which it waits for patiently."""
    with engine.execution_options(**{WRITE: _MIGRATION_SECONDS}).begin() as connection:
        yield connection


def refusal(error: DBAPIError, url: URL) -> str | None:
    """Why the server will not let this process in until somebody changes something; else None.

    libpq gives no SQLSTATE where there is no connection, so its sentence is read, without the names
    in it. In a server's other languages than English it tells nothing; of several hosts one may
    refuse for good while the other, which would not, is away.
    """
    hosts = url.query.get("host", url.host or "")
    if not isinstance(hosts, str) or "," in hosts:
        return None
    sentence = re.sub(r"\"[^\"]*\"|'[^']*'", "", str(error.orig))
    return next((reason for sign, reason in _REFUSALS.items() if re.search(sign, sentence)), None)


def is_away(error: DBAPIError) -> bool:
    """Whether nobody gets in now: libpq gives no SQLSTATE where there is no connection."""
    if not isinstance(error, OperationalError | InterfaceError):
        return False
    state = getattr(error.orig, "sqlstate", None)
    return state is None or state.startswith(("08", "53", "57P"))


def _on_connect(connection: Any, _record: object) -> None:
    connection.execute(f"SET lock_timeout = '{_LOCK_SECONDS}s'")
    connection.execute(f"SET idle_in_transaction_session_timeout = '{_IDLE_SECONDS}s'")
    connection.commit()


def _on_begin(connection: Connection) -> None:
    # Writers are isolated by the lock, at READ COMMITTED: their statements see what was committed
    # before it was given. A snapshot taken at the beginning would be older than that.
    writes = connection.get_execution_options().get(WRITE)
    if writes:
        if writes is not True:
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{writes}s'")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITE_LOCK})")
