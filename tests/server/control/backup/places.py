"""Places to back up and to restore to: what they are filled with, and what is left in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from server.auth import Role
from server.backup import BackupReport, back_up
from server.database import Database
from server.keys.store import KeyStore
from server.provenance.schemas import CorpusIn
from server.provenance.store import CorpusStore
from server.schemas import TargetIn
from server.settings import Settings
from server.store import Store
from server.tables import metadata

KINDS = ["sqlite", "postgresql"]
SECRET = "quokka-lantern-7719"


def fill(settings: Settings, database: Database) -> None:
    """Targets, jobs, a key, a corpus, and files: such as are backed up and such as are not."""
    store = Store(database)
    for number in range(3):
        fields = {"id": f"t{number}", "phrases": [SECRET], "expires_at": "2100-01-01T00:00:00Z"}
        store.register(TargetIn.model_validate(fields))
    CorpusStore(database).create(CorpusIn.model_validate({"id": "book", "description": "kept"}))
    scope: dict[str, Any] = {"targets": ["t1"]}
    fields = {"name": "key", "role": Role.CLIENT.name.lower(), "disabled": False}
    KeyStore(database).create({**fields, "expires_at": None, "scope": scope, "limits": {}})
    for name in ("corpora/index/book-1/a.segment", "assistants/names.json", "corpora/active.json"):
        path = settings.state_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name} {SECRET}")
    for name in ("corpora/index/book-1/LOCK", "corpora/followers/x.json", "assistants/.x.draft"):
        path = settings.state_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("of a process")
    settings.admin_key_file.write_text("the-admin-key")


def store_content(database: Database) -> dict[str, list[Any]]:
    """Every row of every table, but for what tells a restored store."""
    with database.read() as connection:
        found = {
            table.name: [
                tuple(row)
                for row in connection.execute(table.select().order_by(*table.primary_key.columns))
            ]
            for table in metadata.sorted_tables
        }
    found["meta"] = [row for row in found["meta"] if row[0] not in ("restored", "seal")]
    return found


def back_up_to(settings: Settings, file: Path) -> BackupReport:
    """The report of a backup, as the command makes it."""
    database = Database(settings.store_url, prepare=lambda connection: None)
    try:
        return back_up(settings, database, file)
    finally:
        database.close()


def left(settings: Settings) -> set[str]:
    """What lies in a state directory beside the store."""
    return {path.name for path in settings.state_dir.iterdir()} - {
        "lethegate.db",
        "lethegate.db-wal",
        "lethegate.db-shm",
    }


def drafts(folder: Path) -> list[Path]:
    """Backups that are not complete."""
    return list(folder.glob(".*.lethegate-backup"))
