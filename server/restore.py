"""Restoring a backup into an empty store and state directory, of either kind of database.

The file is read and verified whole before anything is put in its place. A marker in the state
directory keeps Lethegate from starting while a restore is under way; one that was cut short is done
again from the beginning, or found to be complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from sqlalchemy import (
    JSON,
    Connection,
    MetaData,
    Table,
    delete,
    func,
    insert,
    inspect,
    select,
    text,
)

from server.backup import CHECKSUM, FOLDERS, FORMAT, KEY_FILE, MANIFEST, STATE, STORE
from server.database import Database
from server.errors import StartFault
from server.migration import head_revision, upgrade
from server.seal import check_key, seal_store
from server.sealing import Vault
from server.settings import Settings
from server.tables import leases, meta, metadata

MARKER = "RESTORING"
_DRAFT = ".restore-"
_RESTORED = "restored"
_BATCH = 500
_DAMAGED = "the backup is damaged or not complete"


def refuse_half_restored(state_dir: Path) -> None:
    """Keep a process from starting on half of a state.

    Raises:
        StartFault: a restore was cut short.
    """
    if (state_dir / MARKER).exists():
        raise StartFault(f"a restore to {state_dir} was cut short: run it again")


def restore(settings: Settings, vault: Vault | None, file: Path) -> dict[str, int]:
    """Restore a backup; gives the rows of each table.

    No other process may use the store.

    Raises:
        StartFault: the backup is damaged, needs another key or a newer Lethegate, or there is
            something in the store or state directory already.
    """
    for left in settings.state_dir.glob(f"{_DRAFT}*"):
        shutil.rmtree(left, ignore_errors=True)
    draft = settings.state_dir / f"{_DRAFT}{uuid.uuid4().hex}"
    try:
        draft.mkdir(mode=0o700)
        digest, manifest = _unpack(file, draft)
        _check(manifest, vault)
        rows: dict[str, int] = manifest["rows"]
        marker = settings.state_dir / MARKER
        if not _is_complete(settings, marker, digest):
            _make_room(settings, marker)
            _note(marker, digest)
            _put(settings, draft / STATE)
            _load(settings.store_url, vault, draft / STORE, manifest["revision"], digest)
        marker.unlink()
        return rows
    except OSError as error:
        raise StartFault(f"cannot restore: {error.strerror}") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _unpack(file: Path, draft: Path) -> tuple[str, dict[str, Any]]:
    """Unpack and verify; gives the manifest and its SHA-256."""
    sums: dict[str, str] = {}
    last: dict[str, bytes] = {}
    try:
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isfile() else None
                if content is None:
                    raise StartFault(_DAMAGED)
                if member.name in (MANIFEST, CHECKSUM):
                    last[member.name] = content.read()
                else:
                    sums[member.name] = _extract(content, _place(draft, member.name))
        manifest: dict[str, Any] = json.loads(last[MANIFEST])
        digest = hashlib.sha256(last[MANIFEST]).hexdigest()
        if last[CHECKSUM].decode() != digest or manifest["sha256"] != sums:
            raise StartFault(_DAMAGED)
    except (tarfile.TarError, EOFError, KeyError, ValueError):
        raise StartFault(_DAMAGED) from None
    return digest, manifest


def _place(draft: Path, name: str) -> Path:
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts or len(parts) < 2 or parts[0] not in (STORE, STATE):
        raise StartFault(_DAMAGED)
    return draft.joinpath(*parts)


def _extract(content: Any, path: Path) -> str:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    digest = hashlib.sha256()
    with os.fdopen(descriptor, "wb") as file:
        while data := content.read(1 << 20):
            digest.update(data)
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _check(manifest: dict[str, Any], vault: Vault | None) -> None:
    if manifest["format"] != FORMAT or manifest["revision"] > head_revision():
        raise StartFault("a newer version of Lethegate made this backup")
    check_key(manifest["seal"], vault)


def _is_complete(settings: Settings, marker: Path, digest: str) -> bool:
    """Whether an earlier try was cut short after its last step that counts."""
    if not marker.exists() or marker.read_text() != digest:
        return False
    found: list[str | None] = []

    def look(connection: Connection) -> None:
        if inspect(connection).has_table(meta.name):
            found.append(connection.scalar(select(meta.c.value).where(meta.c.key == _RESTORED)))

    Database(settings.store_url, prepare=look).close()
    return found == [digest]


def _make_room(settings: Settings, marker: Path) -> None:
    """Remove what a try that was cut short left; anything else is left alone and refused."""
    restored = [settings.state_dir / name for name in (*FOLDERS, KEY_FILE)]
    others = [settings.state_dir / name for name in ("snapshots", "active.json")]
    if marker.exists():
        for place in restored:
            if place.is_dir():
                shutil.rmtree(place)
            place.unlink(missing_ok=True)
    full = next((place.name for place in (*restored, *others) if place.exists()), None)
    if full is not None:
        raise StartFault(f"the state directory is not empty: it has {full}")
    Database(settings.store_url, prepare=_refuse_rows).close()


def _refuse_rows(connection: Connection) -> None:
    here = set(inspect(connection).get_table_names())
    for known in metadata.sorted_tables:
        if known.name not in here or known in (meta, leases):
            continue
        if connection.scalar(select(func.count()).select_from(known)):
            raise StartFault(f"the store is not empty: it has {known.name}")


def _note(marker: Path, digest: str) -> None:
    descriptor = os.open(marker, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(digest)
        file.flush()
        os.fsync(file.fileno())


def _put(settings: Settings, unpacked: Path) -> None:
    for path in sorted(unpacked.iterdir()) if unpacked.is_dir() else ():
        path.rename(settings.state_dir / path.name)
    handle = os.open(settings.state_dir, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def _load(url: str, vault: Vault | None, folder: Path, revision: str, digest: str) -> None:
    """Everything into the database, in one transaction."""

    def load(connection: Connection) -> None:
        _refuse_rows(connection)
        upgrade(connection, revision)
        connection.execute(delete(meta))
        # Parents first; a table that a later revision dropped is there until then.
        order = {known.name: place for place, known in enumerate(metadata.sorted_tables)}
        for path in sorted(folder.iterdir(), key=lambda path: order.get(path.stem, len(order))):
            with path.open("rb") as file:
                # As it is at that revision, not as `server.tables` has it.
                there = Table(path.stem, MetaData(), autoload_with=connection)
                parsed = [c.name for c in there.columns if isinstance(c.type, JSON)]
                for batch in _batches(file):
                    for row in batch:
                        row |= {name: json.loads(row[name]) for name in parsed if row[name]}
                    connection.execute(insert(there), batch)
        upgrade(connection)
        # Where the backup is one of a store that was restored, it has its own.
        connection.execute(delete(meta).where(meta.c.key == _RESTORED))
        connection.execute(insert(meta).values(key=_RESTORED, value=digest))
        _advance_sequences(connection)
        seal_store(connection, vault)

    database = Database(url, vault, prepare=load)
    if vault is not None:
        database.scrub()
    database.close()


def _batches(file: BinaryIO) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for line in file:
        batch.append(json.loads(line))
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _advance_sequences(connection: Connection) -> None:
    """Let PostgreSQL count on from the numbers that were restored."""
    if connection.dialect.name != "postgresql":
        return
    for known in metadata.sorted_tables:
        counted = _counted(known)
        if counted is not None:
            highest = connection.scalar(select(func.max(known.c[counted])))
            if highest is not None:
                sequence = text("SELECT setval(pg_get_serial_sequence(:table, :column), :value)")
                values = {"table": known.name, "column": counted, "value": highest}
                connection.execute(sequence, values)


def _counted(known: Table) -> str | None:
    found = known.autoincrement_column
    return None if found is None or found.foreign_keys else found.name
