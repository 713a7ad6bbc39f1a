"""A backup: the whole store, the corpora and the assistants in one file, made while all runs.

A tar archive of its owner's only. Tables are JSON lines of what is in their columns, so that a
backup of SQLite can be restored to PostgreSQL and the other way round; what is sealed stays sealed.
Last come a manifest with the SHA-256 of every member, and the manifest's own: a file that was cut
off or changed is never restored. Snapshots are not in it: they are compiled anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from sqlalchemy import (
    JSON,
    Column,
    ColumnElement,
    Connection,
    Table,
    Text,
    cast,
    select,
    type_coerce,
)

from server.backup_draft import discard_drafts, draft_of
from server.database import Database
from server.errors import StartFault
from server.migration import head_revision
from server.provenance.freeze import frozen
from server.seal import seal_of
from server.sealing import Sealed
from server.settings import Settings
from server.staging import discard_left, staging
from server.tables import leases, metadata, targets

FORMAT = 1
MANIFEST, CHECKSUM = "manifest.json", "manifest.sha256"
STORE, STATE = "store", "state"
# What of the state directory is kept beside the store. Snapshots and caches can be made again.
FOLDERS, KEY_FILE = ("corpora", "assistants"), "admin.key"
# Of processes, not of the corpora.
_SKIPPED = frozenset({"LOCK", "followers", "CHANGES", "active.lock"})


@dataclass(frozen=True, slots=True)
class BackupReport:
    """What is in a backup: rows by table, files, bytes of the archive."""

    targets: int
    rows: int
    files: int
    bytes: int


def back_up(settings: Settings, database: Database, file: Path) -> BackupReport:
    """Write a backup to a new file, whole or not at all.

    Changes of the corpora wait for the moment in which their files get a second name; nothing else
    waits.

    Raises:
        StartFault: the file exists or cannot be written.
    """
    if file.exists():
        raise StartFault(f"{file} exists; a backup is never overwritten")
    discard_left(settings.state_dir)
    try:
        with staging(settings.state_dir) as folder:
            with frozen(settings.corpora):
                rows, seal = _dump(database, folder / STORE)
                _stage(settings, folder / STATE)
            return _write(folder, file, rows, seal)
    except OSError as error:
        raise StartFault(f"cannot write the backup: {error.strerror}") from None


def _dump(database: Database, folder: Path) -> tuple[dict[str, int], str | None]:
    """Every table as JSON lines, of one moment; gives the numbers of rows and the seal."""
    folder.mkdir(mode=0o700)
    with database.read() as connection:
        rows = {}
        for table in metadata.sorted_tables:
            if table is leases:
                continue
            with _create(folder / f"{table.name}.jsonl") as file:
                rows[table.name] = _dump_table(connection, table, file)
        return rows, seal_of(connection)


def _dump_table(connection: Connection, table: Table, file: BinaryIO) -> int:
    columns = [_raw(column) for column in table.columns]
    query = select(*columns).order_by(*table.primary_key.columns)
    names = [column.name for column in table.columns]
    count = 0
    for row in connection.execution_options(yield_per=500).execute(query):
        file.write(json.dumps(dict(zip(names, row, strict=True))).encode() + b"\n")
        count += 1
    return count


def _raw(column: Column[Any]) -> ColumnElement[Any]:
    """A column as the database has it: sealed values sealed, JSON as its text."""
    if isinstance(column.type, Sealed):
        return type_coerce(column, Text)
    if isinstance(column.type, JSON):
        return cast(column, Text)
    return column


def _stage(settings: Settings, folder: Path) -> None:
    """Give every file that is kept a second name, so that it stays as it is now."""
    folder.mkdir(mode=0o700)
    for name in FOLDERS:
        root = settings.state_dir / name
        for path in _files(root):
            copy = folder / name / path.relative_to(root)
            copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _second_name(path, copy)
    if settings.admin_key_file.exists():
        _second_name(settings.admin_key_file, folder / KEY_FILE)


def _files(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*")) if root.is_dir() else ():
        parts = path.relative_to(root).parts
        draft = any(part.endswith(".draft") for part in parts)
        if path.is_file() and not path.is_symlink() and not draft and not _SKIPPED & set(parts):
            yield path


def _second_name(path: Path, copy: Path) -> None:
    try:
        copy.hardlink_to(path)
    except FileNotFoundError:
        # A record that was turned over, or an assistant that was retired, just now.
        return
    except OSError:
        # A file system without hard links.
        shutil.copyfile(path, copy)


def _write(folder: Path, file: Path, rows: dict[str, int], seal: str | None) -> BackupReport:
    sums: dict[str, str] = {}
    discard_drafts(file.parent)
    with draft_of(file) as (draft, raw):
        with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                name = str(path.relative_to(folder))
                sums[name] = _add(archive, name, path)
            manifest = json.dumps(_manifest(rows, seal, sums), indent=1).encode()
            _add_bytes(archive, MANIFEST, manifest)
            _add_bytes(archive, CHECKSUM, hashlib.sha256(manifest).hexdigest().encode())
        raw.flush()
        os.fsync(raw.fileno())
        size = raw.tell()
        _rename(draft, file)
    return BackupReport(rows[targets.name], sum(rows.values()), len(sums) - len(rows), size)


def _rename(draft: Path, file: Path) -> None:
    """Give the draft its name, which must be free: a rename alone would replace a file."""
    try:
        file.hardlink_to(draft)
    except FileExistsError:
        raise
    except OSError:
        # A file system without hard links: the name is taken first, then what is there replaced.
        with _create(file):
            draft.rename(file)


def _manifest(rows: dict[str, int], seal: str | None, sums: dict[str, str]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "lethegate": version("lethegate"),
        "revision": head_revision(),
        "created_at": time.time(),
        "seal": seal,
        "rows": rows,
        "sha256": sums,
    }


def _add(archive: tarfile.TarFile, name: str, path: Path) -> str:
    """Add a file; gives the SHA-256 of what was added, should the file grow meanwhile."""
    with path.open("rb") as file:
        info = _member(name, os.fstat(file.fileno()).st_size)
        reader = _Hashing(file)
        archive.addfile(info, reader)  # type: ignore[arg-type]
        return reader.digest.hexdigest()


def _add_bytes(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    archive.addfile(_member(name, len(content)), BytesIO(content))


def _member(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o600, int(time.time())
    return info


class _Hashing:
    """A file that is hashed as it is read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self.digest.update(data)
        return data


@contextmanager
def _create(path: Path) -> Iterator[BinaryIO]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        yield file
