"""SQLite as the store's database: a durable, owner-only file."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event

from server.errors import StartFault

WRITE = "lethegate_write"
_BUSY_SECONDS = 30
# A migration may take its time, and who comes second waits for it.
_MIGRATION_SECONDS = 900


def open_sqlite(url: URL) -> Engine:
    """An engine on a file, made if it is missing.

    Raises:
        StartFault: the URL names no file, or the file cannot be used.
    """
    if not url.database or url.database == ":memory:":
        raise StartFault("database_url: the store must be a file")
    _own(Path(url.database))
    engine = create_engine(url, hide_parameters=True, connect_args={"timeout": _BUSY_SECONDS})
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    return engine


@contextmanager
def migrating(engine: Engine) -> Iterator[Connection]:
    """A transaction with the write lock in which tables may be replaced by their copies.

    Raises:
        StartFault: a row would refer to one that is not there; nothing is changed.
    """
    with engine.execution_options(**{WRITE: True}).connect() as connection:
        raw: Any = connection.connection.driver_connection
        # Else dropping a table would delete what refers to it. Has no effect within a transaction.
        raw.execute("PRAGMA foreign_keys=OFF")
        raw.execute(f"PRAGMA busy_timeout={_MIGRATION_SECONDS * 1000}")
        with connection.begin():
            yield connection
            if connection.exec_driver_sql("PRAGMA foreign_key_check").first() is not None:
                raise StartFault("the store cannot be migrated: its rows do not fit together")
        # The pool must not give this connection to anyone else.
        connection.invalidate()


def _own(file: Path) -> None:
    """Make file and directory owner-only before the first secret is in them."""
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A file that is there is not opened: closing it would end the locks of this process on it.
        with suppress(FileExistsError):
            os.close(os.open(file, os.O_CREAT | os.O_EXCL, 0o600))
        if not file.is_file():
            raise StartFault(f"cannot open the store {file}: it is not a file")
        file.chmod(0o600)
        if not os.access(file, os.R_OK | os.W_OK):
            raise StartFault(f"cannot open the store {file}: it may not be written")
    except OSError as error:
        raise StartFault(f"cannot open the store {file}: {error.strerror}") from None


def _on_connect(connection: Any, _record: object) -> None:
    # Transactions are begun by `_on_begin`, not by the driver.
    connection.isolation_level = None
    cursor = connection.cursor()
    _use_wal(cursor)
    for pragma in (
        "synchronous=FULL",  # an acknowledged target survives a power cut
        "foreign_keys=ON",
        "secure_delete=ON",  # withdrawn text is overwritten, not only unlinked
        f"busy_timeout={_BUSY_SECONDS * 1000}",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _use_wal(cursor: Any) -> None:
    """Have the file keep a write-ahead log; of those that ask for it at once all come through.

    Turning an empty file to it locks the file in two steps, at the second of which SQLite does not
    wait for others who are there too, whatever its timeout is.
    """
    until = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() > until:
                raise
            time.sleep(0.01)
        else:
            return


def _on_begin(connection: Connection) -> None:
    # A reader that turns writer may fail at once under WAL, so writers say so first.
    writes = connection.get_execution_options().get(WRITE)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
