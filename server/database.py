"""Opening the store's database: durable, owner-only, of the right version."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from sqlalchemy import URL, Connection, Engine
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

import server.keys.table
import server.nodes.table
import server.statistics.table  # noqa: F401  (their tables are the store's)
from server import postgres, sqlite
from server.errors import StartFault, StoreAway, StoreFault
from server.migration import upgrade
from server.seal import SCRUBBED, seal_store, sealed_columns
from server.sealing import Vault, give_vault
from server.tables import metadata

# Begins a transaction that may write: `Database.write`, or a guarded form of it.
Write = Callable[[], AbstractContextManager[Connection]]

# On SQLite, puts what is in the log into the file and empties the log.
_TRUNCATE = "PRAGMA wal_checkpoint(TRUNCATE)"
_READ_ON_POSTGRES = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
_WRITE_ON_POSTGRES = {"isolation_level": "READ COMMITTED", postgres.WRITE: True}


class Database:
    """An engine with two kinds of transactions: `read()` and `write()`.

    Both yield a connection, commit at the end of the block and roll back if it raises. Writers take
    turns, in all processes: what a writer reads is still true when it commits.
    """

    def __init__(
        self,
        url: str,
        vault: Vault | None = None,
        *,
        prepare: Callable[[Connection], None] | None = None,
    ) -> None:
        """Open the database, creating file and tables when they are missing, or migrating them.

        With a `vault`, what is not sealed yet is sealed. `prepare` does something else instead of
        all that, in the same transaction, which holds the write lock.

        Raises:
            StartFault: the URL or the file cannot be used, the database server refuses it, or the
                vault has not the store's key.
            StoreAway: the database server does not answer now.
            StoreVersionError: a newer version of Lethegate wrote it.
        """
        # Called with every fault of the database.
        self.on_fault: Callable[[], None] = lambda: None
        parsed = _parse(url)
        self.is_file = parsed.get_backend_name() == "sqlite"
        open_engine = sqlite.open_sqlite if self.is_file else postgres.open_postgres
        migrating = sqlite.migrating if self.is_file else postgres.migrating
        try:
            self._engine = open_engine(parsed)
        except ImportError:
            raise StartFault(f"database_url: no driver for {parsed.drivername}") from None
        give_vault(self._engine.dialect, vault)
        sealed = False
        try:
            with migrating(self._engine) as connection:
                if prepare is not None:
                    prepare(connection)
                else:
                    upgrade(connection)
                    sealed = seal_store(connection, vault)
            if sealed:
                self.scrub()
        except BaseException as error:
            self._engine.dispose()
            if isinstance(error, DBAPIError) and not self.is_file:
                if (reason := postgres.refusal(error, parsed)) is not None:
                    raise StartFault(f"database_url: {reason}") from None
                if postgres.is_away(error):
                    raise StoreAway(f"the store does not answer: {type(error).__name__}") from None
            if isinstance(error, SQLAlchemyError):
                raise StartFault(f"cannot open the store: {type(error).__name__}") from None
            raise
        reading = {} if self.is_file else _READ_ON_POSTGRES
        writing = {sqlite.WRITE: True} if self.is_file else _WRITE_ON_POSTGRES
        self._readers = self._engine.execution_options(**reading)
        self._writers = self._engine.execution_options(**writing)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads: one consistent view."""
        with self._translated(), self._readers.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that may write; it takes the write lock at once."""
        with self._translated(), self._writers.begin() as connection:
            yield connection

    def scrub(self) -> None:
        """Have the database write its files anew, without what was overwritten in them.

        Where the disk keeps what a file system has freed, or a copy elsewhere, it stays.

        Raises:
            StartFault: it cannot now; the next start tries again.
        """
        tables = [table for table in metadata.sorted_tables if sealed_columns(table)]
        statements = [
            "VACUUM",
            _TRUNCATE,
        ]
        if not self.is_file:
            statements = [f"VACUUM FULL {table.name}" for table in tables] + ["CHECKPOINT"]
        with self._translated(), self._engine.connect() as connection:
            # Neither database does this within a transaction.
            raw: Any = connection.connection.driver_connection
            if not self.is_file:
                raw.autocommit = True
            try:
                for statement in (*statements, SCRUBBED):
                    done = raw.execute(statement)
                    # A reader keeps what it reads in the log, which is no error to SQLite.
                    if statement == _TRUNCATE and done.fetchone()[0]:
                        raise StartFault("cannot write the store's files anew: it is being read")
            except _driver_errors(self._engine) as error:
                reason = type(error).__name__
                raise StartFault(f"cannot write the store's files anew: {reason}") from None
            finally:
                connection.invalidate()

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Database errors quote statements, so only their class goes on."""
        try:
            yield
        except (DBAPIError, PoolTimeout) as error:
            self.on_fault()
            raise StoreFault(type(error).__name__) from None


def _driver_errors(engine: Engine) -> type[Exception]:
    """What the driver itself raises where it is used without SQLAlchemy."""
    found: type[Exception] = engine.dialect.loaded_dbapi.Error
    return found


def is_file(url: str) -> bool:
    """Whether a store's URL names a file of this machine.

    Raises:
        StartFault: it is no URL of a database that can be used.
    """
    return _parse(url).get_backend_name() == "sqlite"


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise StartFault("database_url is not a database URL") from None
    try:
        backend = parsed.get_backend_name()
        parsed.get_dialect()
    except NoSuchModuleError:
        raise StartFault(f"database_url: no driver for {parsed.drivername}") from None
    if backend not in ("sqlite", "postgresql"):
        raise StartFault("database_url: neither SQLite nor PostgreSQL")
    return parsed
