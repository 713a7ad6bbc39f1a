"""Opening the store's database: durable, owner-only, of the right version."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, insert, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    NoSuchModuleError,
    SQLAlchemyError,
)
from sqlalchemy.exc import (
    TimeoutError as PoolTimeout,
)

import server.keys.table  # noqa: F401  (its tables are the store's)
from server.errors import StartFault, StoreFault, StoreVersionError
from server.tables import SCHEMA_VERSION, meta, metadata

_BUSY_TIMEOUT_SECONDS = 30
_WRITE = {"lethegate_write": True}


class Database:
    """An engine with two kinds of transactions: `read()` and `write()`.

    Both yield a connection, commit at the end of the block and roll back if it raises.
    """

    def __init__(self, url: str) -> None:
        """Open the database, creating file and tables when they are missing.

        Raises:
            StartFault: the URL or the file cannot be used.
            StoreVersionError: another version of Lethegate wrote it.
        """
        try:
            self._engine = _open(url)
            metadata.create_all(self._engine)
            self._check_version()
        except (SQLAlchemyError, ImportError) as error:
            raise StartFault(f"cannot open the store: {type(error).__name__}") from None

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads: one consistent view."""
        with _translated(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that may write; on SQLite it takes the write lock at once."""
        engine = self._engine.execution_options(**_WRITE)
        with _translated(), engine.begin() as connection:
            yield connection

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def _check_version(self) -> None:
        key = meta.c.key == "schema_version"
        with self.write() as connection:
            found = connection.scalar(select(meta.c.value).where(key))
            if found is None:
                row = {"key": "schema_version", "value": str(SCHEMA_VERSION)}
                connection.execute(insert(meta).values(row))
            elif found != str(SCHEMA_VERSION):
                raise StoreVersionError(
                    f"the store has schema version {found}, this Lethegate needs {SCHEMA_VERSION}"
                )


@contextmanager
def _translated() -> Iterator[None]:
    """Database errors quote statements, so only their class goes on."""
    try:
        yield
    except (DBAPIError, PoolTimeout) as error:
        raise StoreFault(type(error).__name__) from None


def _open(url: str) -> Engine:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise StartFault("database_url is not a database URL") from None
    if parsed.get_backend_name() != "sqlite":
        try:
            return create_engine(parsed, hide_parameters=True, pool_pre_ping=True)
        except NoSuchModuleError:
            raise StartFault(f"database_url: no driver for {parsed.drivername}") from None
    if not parsed.database or parsed.database == ":memory:":
        raise StartFault("database_url: the store must be a file")
    _own(Path(parsed.database))
    engine = create_engine(
        parsed, hide_parameters=True, connect_args={"timeout": _BUSY_TIMEOUT_SECONDS}
    )
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    return engine


def _own(file: Path) -> None:
    """Make file and directory owner-only before the first secret is in them."""
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
        file.chmod(0o600)
    except OSError as error:
        raise StartFault(f"cannot open the store {file}: {error.strerror}") from None


def _on_connect(connection: Any, _record: object) -> None:
    # Transactions are begun by `_on_begin`, not by the driver.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",  # an acknowledged target survives a power cut
        "foreign_keys=ON",
        "secure_delete=ON",  # withdrawn text is overwritten, not only unlinked
        f"busy_timeout={_BUSY_TIMEOUT_SECONDS * 1000}",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _on_begin(connection: Connection) -> None:
    # A reader that turns writer may fail at once under WAL, so writers say so first.
    writes = connection.get_execution_options().get("lethegate_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
