"""Whether a store is sealed, and sealing what is in it.

The store keeps one sealed sentence of its own: whether it is there tells that the store is sealed,
and whether it opens that the key is the right one.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, Connection, Table, bindparam, delete, insert, select, update

from server.errors import StartFault, StoreFault
from server.sealing import Sealed, Vault
from server.tables import meta, metadata

_ROW = "seal"
# Something was sealed, and the database's files may still hold its plain form.
_UNSCRUBBED = "unscrubbed"
_SENTENCE = "the key fits"
_BATCH = 500
# The last statement of a scrub.
SCRUBBED = f"DELETE FROM {meta.name} WHERE key = '{_UNSCRUBBED}'"  # noqa: S608


def seal_store(connection: Connection, vault: Vault | None) -> bool:
    """Hold the key against the store, and seal what is in the store if nothing is yet.

    Returns whether the plain form of what was sealed, now or by a process that died then, must be
    scrubbed. The caller's transaction holds the write lock, and its engine has the vault.

    Raises:
        StartFault: the store is sealed and there is no key, or a wrong one.
    """
    unsealed = check_key(seal_of(connection), vault)
    if vault is None:
        return False
    if unsealed:
        reseal(connection, vault)
    return connection.scalar(select(meta.c.value).where(meta.c.key == _UNSCRUBBED)) is not None


def seal_of(connection: Connection) -> str | None:
    """The store's sealed sentence; None if it is not sealed."""
    found: str | None = connection.scalar(select(meta.c.value).where(meta.c.key == _ROW))
    return found


def check_key(seal: str | None, vault: Vault | None) -> bool:
    """Whether there is a key and nothing is sealed yet.

    Raises:
        StartFault: the store is sealed and there is no key, or a wrong one.
    """
    if seal is None:
        return vault is not None
    if vault is None:
        raise StartFault("the store is encrypted: set encryption_key_file to its key")
    try:
        vault.open(seal)
    except StoreFault:
        raise StartFault("the key in encryption_key_file is not that of the store") from None
    return False


def reseal(connection: Connection, vault: Vault) -> int:
    """Seal every value with the first key, whatever it is sealed with; gives how many rows."""
    count = 0
    for table in metadata.sorted_tables:
        columns = sealed_columns(table)
        if columns:
            count += _reseal(connection, table, columns)
    connection.execute(delete(meta).where(meta.c.key.in_((_ROW, _UNSCRUBBED))))
    rows = {_ROW: vault.seal(_SENTENCE), _UNSCRUBBED: "1"}
    connection.execute(insert(meta), [{"key": key, "value": value} for key, value in rows.items()])
    return count


def sealed_columns(table: Table) -> list[Column[Any]]:
    """The columns of a table that may hold forget text."""
    return [column for column in table.columns if isinstance(column.type, Sealed)]


def _reseal(connection: Connection, table: Table, columns: list[Column[Any]]) -> int:
    """Write every row of a table again; the type seals what it is given."""
    keys = list(table.primary_key.columns)
    # Named unlike the columns, which the update's own parameters are named after.
    same = [key == bindparam(f"key_{key.name}") for key in keys]
    values: dict[str, Any] = {column.name: bindparam(f"new_{column.name}") for column in columns}
    change = update(table).where(*same).values(values)
    rows = connection.execute(select(*keys, *columns).order_by(*keys)).all()
    names = [f"key_{key.name}" for key in keys] + [f"new_{column.name}" for column in columns]
    for first in range(0, len(rows), _BATCH):
        batch = [dict(zip(names, row, strict=True)) for row in rows[first : first + _BATCH]]
        connection.execute(change, batch)
    return len(rows)
