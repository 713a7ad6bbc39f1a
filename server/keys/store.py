"""The keys in the store. A key in clear is made here, given back once, and kept nowhere."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from server.auth import Role
from server.database import Database
from server.errors import Conflict, InvalidField, NotFound
from server.etags import require_match
from server.keys.record import KeyRecord, SecretRecord, StoredKeys
from server.keys.secret import SHOWN_CHARS, key_digest, new_key
from server.keys.table import REQUIRED, REVISION, api_key_secrets, api_keys
from server.tables import meta, targets

# All of them are in every gateway's memory, and are published as one file.
MAX_KEYS = 10_000


class KeyStore:
    """Creates, lists, changes, rotates and deletes keys; every change counts the revision up."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, fields: Mapping[str, Any]) -> tuple[KeyRecord, str]:
        """Make a key with these columns; the key itself is the second value, this once.

        Raises:
            Conflict: there are `MAX_KEYS` keys.
        """
        now, key = time.time(), new_key()
        with self._database.write() as connection:
            _count_up(connection)
            if (connection.scalar(select(func.count()).select_from(api_keys)) or 0) >= MAX_KEYS:
                raise Conflict(f"There are {MAX_KEYS} keys already: delete some.")
            newest = connection.scalar(select(func.max(api_keys.c.number))) or 0
            row = {"id": "key-" + secrets.token_hex(8), "number": newest + 1, "revision": 1}
            times = {"created_at": now, "updated_at": now}
            connection.execute(insert(api_keys).values({**row, **times, **fields}))
            _add_secret(connection, str(row["id"]), key, now)
            if fields["role"] == Role.CLIENT.name.lower():
                _put(connection, REQUIRED, "1")
            return _get(connection, str(row["id"])), key

    def check_targets(self, target_ids: Sequence[str] | None) -> None:
        """Refuse targets that are not there: a misspelt one would apply to nothing, unnoticed.

        Raises:
            InvalidField: naming `targets`.
        """
        wanted = list(target_ids or ())
        with self._database.read() as connection:
            query = select(targets.c.id).where(targets.c.id.in_(wanted))
            known = set(connection.scalars(query))
        for place, target_id in enumerate(wanted):
            if target_id not in known:
                param = f"targets[{place}]"
                raise InvalidField(f"{param}: there is no such target", param=param)

    def key(self, key_id: str) -> KeyRecord:
        """One key.

        Raises:
            NotFound: there is no such key.
        """
        with self._database.read() as connection:
            return _get(connection, key_id)

    def page(self, after: str | None, limit: int) -> list[KeyRecord]:
        """Up to `limit` keys made after the key `after`, oldest first.

        Raises:
            NotFound: there is no key `after`.
        """
        query = select(api_keys).order_by(api_keys.c.number).limit(limit)
        with self._database.read() as connection:
            if after is not None:
                query = query.where(api_keys.c.number > _get(connection, after).number)
            return _load(connection, query)

    def change(
        self,
        key_id: str,
        columns: Callable[[KeyRecord], Mapping[str, Any]],
        if_match: str | None,
    ) -> KeyRecord:
        """Set the columns that `columns` makes of the known key.

        Raises:
            NotFound: there is no such key.
            PreconditionFailed: `if_match` names another revision.
        """
        with self._database.write() as connection:
            _count_up(connection)
            known = _matched(connection, key_id, if_match)
            changed: dict[str, Any] = {"revision": known.revision + 1, "updated_at": time.time()}
            changed.update(columns(known))
            connection.execute(update(api_keys).where(api_keys.c.id == key_id).values(changed))
            return _get(connection, key_id)

    def rotate(
        self, key_id: str, grace_seconds: float, if_match: str | None = None
    ) -> tuple[KeyRecord, str]:
        """Give a key a new secret; the newest before it goes on for the grace, older ones end now.

        Raises:
            NotFound: there is no such key.
            PreconditionFailed: `if_match` names another revision.
        """
        now, key = time.time(), new_key()
        with self._database.write() as connection:
            _count_up(connection)
            known = _matched(connection, key_id, if_match)
            newest, until = known.secrets[-1], now + grace_seconds
            until = until if newest.expires_at is None else min(until, newest.expires_at)
            of_key = api_key_secrets.c.key_id == key_id
            older = of_key & (api_key_secrets.c.digest != newest.digest)
            connection.execute(delete(api_key_secrets).where(older))
            connection.execute(update(api_key_secrets).where(of_key).values(expires_at=until))
            _add_secret(connection, key_id, key, now)
            changed = {"revision": known.revision + 1, "updated_at": now}
            connection.execute(update(api_keys).where(api_keys.c.id == key_id).values(changed))
            return _get(connection, key_id), key

    def delete(self, key_id: str, if_match: str | None) -> None:
        """Delete a key with its secrets.

        Raises:
            NotFound: there is no such key.
            PreconditionFailed: `if_match` names another revision.
        """
        with self._database.write() as connection:
            _count_up(connection)
            _matched(connection, key_id, if_match)
            connection.execute(delete(api_key_secrets).where(api_key_secrets.c.key_id == key_id))
            connection.execute(delete(api_keys).where(api_keys.c.id == key_id))

    def revision(self) -> int:
        """How often keys were changed; cheap."""
        with self._database.read() as connection:
            return int(_value(connection, REVISION) or 0)

    def everything(self) -> StoredKeys:
        """All keys."""
        with self._database.read() as connection:
            return StoredKeys(
                int(_value(connection, REVISION) or 0),
                _value(connection, REQUIRED) is not None,
                tuple(_load(connection, select(api_keys).order_by(api_keys.c.number))),
            )


def _load(connection: Connection, query: Any) -> list[KeyRecord]:
    rows: Sequence[Any] = connection.execute(query).all()
    found: dict[str, list[SecretRecord]] = {row.id: [] for row in rows}
    order = (api_key_secrets.c.created_at, api_key_secrets.c.digest)
    secrets_of = select(api_key_secrets).order_by(*order)
    if len(rows) <= 1000:  # else all of them, sooner than a list of ids that no database takes
        secrets_of = secrets_of.where(api_key_secrets.c.key_id.in_(list(found)))
    for row in connection.execute(secrets_of):
        if row.key_id in found:
            record = SecretRecord(row.digest, row.prefix, row.created_at, row.expires_at)
            found[row.key_id].append(record)
    return [KeyRecord.of(row, found[row.id]) for row in rows]


def _get(connection: Connection, key_id: str) -> KeyRecord:
    found = _load(connection, select(api_keys).where(api_keys.c.id == key_id))
    if not found:
        raise NotFound("There is no such key.")
    return found[0]


def _matched(connection: Connection, key_id: str, if_match: str | None) -> KeyRecord:
    known = _get(connection, key_id)
    require_match(known.etag, if_match, "key")
    return known


def _add_secret(connection: Connection, key_id: str, key: str, now: float) -> None:
    row = {"digest": key_digest(key), "key_id": key_id, "prefix": key[:SHOWN_CHARS]}
    connection.execute(insert(api_key_secrets).values({**row, "created_at": now}))


def _count_up(connection: Connection) -> None:
    """Count the change, first thing: writers of keys wait here for each other."""
    found = connection.scalar(select(meta.c.value).where(meta.c.key == REVISION).with_for_update())
    _put(connection, REVISION, str(int(found or 0) + 1))


def _value(connection: Connection, key: str) -> str | None:
    found: str | None = connection.scalar(select(meta.c.value).where(meta.c.key == key))
    return found


def _put(connection: Connection, key: str, value: str) -> None:
    changed = connection.execute(update(meta).where(meta.c.key == key).values(value=value))
    if changed.rowcount == 0:
        connection.execute(insert(meta).values(key=key, value=value))
