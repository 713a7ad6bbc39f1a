"""Bringing the store's schema up to date at the start.

Everything happens in one transaction that holds the store's write lock: of two processes that
start at once one migrates and the other waits, and a process that dies halfway leaves the schema as
it was.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, delete, insert, inspect, select

from server.errors import StoreVersionError
from server.migrations.versions import r0001_first
from server.tables import meta

_FIRST = "r0001"
_FOLDER = Path(__file__).with_name("migrations")
# What Lethegate looked at before there were migrations; still written, so that such an old one
# refuses a store that it does not understand.
_SCHEMA_VERSION = "schema_version"


def head_revision() -> str:
    """The revision that this Lethegate works with."""
    return str(ScriptDirectory(str(_FOLDER)).get_current_head())


def require_head(connection: Connection) -> None:
    """Leave the store as it is, whatever it is.

    Raises:
        StoreVersionError: it is not of the revision that this Lethegate works with.
    """
    found, head = MigrationContext.configure(connection).get_current_revision(), head_revision()
    if found != head:
        raise StoreVersionError(
            f"the store has schema revision {found}, not {head}: start it first"
        )


def upgrade(connection: Connection, to: str = "head") -> None:
    """Create the tables or change them to what `server.tables` says, or an earlier revision did.

    `connection` is in a transaction that holds the store's write lock.

    Raises:
        StoreVersionError: a newer version of Lethegate wrote the store.
    """
    config = _config(connection)
    script = ScriptDirectory.from_config(config)
    head = script.get_current_head()
    found = MigrationContext.configure(connection).get_current_revision()
    if found is None and inspect(connection).has_table(meta.name):
        _check_version(connection)
        _complete(connection)
        command.stamp(config, _FIRST)
    elif found is not None and found not in {known.revision for known in script.walk_revisions()}:
        raise StoreVersionError(
            f"the store has schema revision {found}, this Lethegate knows none above {head}"
        )
    if found != head:
        command.upgrade(config, to)
        _note_version(connection, str(head) if to == "head" else to)


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", _plain(_FOLDER))
    config.attributes["connection"] = connection
    return config


def _check_version(connection: Connection) -> None:
    """Refuse a store without migrations that is not of the one version there was."""
    version = connection.scalar(select(meta.c.value).where(meta.c.key == _SCHEMA_VERSION))
    if version != "1":
        raise StoreVersionError(f"the store has schema version {version}, which is unknown")


def _complete(connection: Connection) -> None:
    """Give the oldest stores the tables that later ones of the same version had."""
    if not inspect(connection).has_table("corpora"):
        with Operations.context(MigrationContext.configure(connection)):
            r0001_first.create_corpora()


def _note_version(connection: Connection, head: str) -> None:
    connection.execute(delete(meta).where(meta.c.key == _SCHEMA_VERSION))
    row = {"key": _SCHEMA_VERSION, "value": str(int(head.removeprefix("r")))}
    connection.execute(insert(meta).values(row))


def _plain(path: Path) -> str:
    """A path as Alembic's configuration takes it, which reads % as the sign of a variable."""
    return str(path).replace("%", "%%")
