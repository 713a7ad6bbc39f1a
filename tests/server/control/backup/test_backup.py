"""Backups: whole or not at all, from either database to either, and never over something else."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import Boolean, Double, Integer, String, Text
from sqlalchemy.types import JSON

from server import backup as backup_module
from server import restore as restore_module
from server.database import Database
from server.errors import StartFault
from server.provenance.store import CorpusStore
from server.restore import restore
from server.schemas import TargetIn
from server.sealing import Sealed, Vault
from server.settings import Settings
from server.store import Store
from server.tables import metadata
from tests.server.control.backup.places import KINDS, SECRET, back_up_to, left, store_content

OLD_STORE = Path(__file__).parents[1] / "store-before-migrations.sql"


@pytest.mark.parametrize("filled", KINDS, indirect=True)
@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back(
    filled: Settings, kind: str, place: Callable[..., Settings], tmp_path: Path
) -> None:
    """What is restored is what there was, on either database, and it can be worked with."""
    file, to = tmp_path / "b.tar", place("to", kind)
    report = back_up_to(filled, file)
    rows = restore(to, None, file)
    before, after = Database(filled.store_url), Database(to.store_url)

    assert (report.targets, rows["targets"], report.files) == (3, 3, 4)
    assert file.stat().st_mode & 0o777 == 0o600
    assert store_content(after) == store_content(before)
    assert left(to) == {"corpora", "assistants", "admin.key"}
    assert not list(to.state_dir.rglob("LOCK"))
    for name in ("corpora/index/book-1/a.segment", "assistants/names.json", "corpora/active.json"):
        assert (to.state_dir / name).read_text() == f"{name} {SECRET}"
        assert (to.state_dir / name).stat().st_mode & 0o777 == 0o600
    assert to.admin_key_file.read_text() == "the-admin-key"
    store = Store(after)
    _, job = store.register(TargetIn.model_validate({"id": "new", "phrases": ["x"]}))
    assert job.number > max(j.number for j in store.jobs().page(None, 9) if j.id != job.id)
    before.close()
    after.close()


def test_nothing_is_overwritten(
    filled: Settings, place: Callable[..., Settings], tmp_path: Path
) -> None:
    """Neither a file by a backup, nor a store or state directory by a restore."""
    file = tmp_path / "b.tar"
    back_up_to(filled, file)
    with pytest.raises(StartFault, match="exists"):
        back_up_to(filled, file)
    with pytest.raises(StartFault, match="not empty: it has corpora"):
        restore(filled, None, file)
    full = place("full", "sqlite")
    database = Database(full.store_url)
    Store(database).register(TargetIn.model_validate({"id": "mine", "phrases": ["x"]}))
    database.close()
    with pytest.raises(StartFault, match="not empty"):
        restore(full, None, file)

    assert left(full) == set()
    database = Database(full.store_url)
    assert [record.id for record in Store(database).target_page(None, 5)] == ["mine"]
    database.close()
    assert "from" in str(filled.state_dir)
    assert left(filled) == {"corpora", "assistants", "admin.key"}


def test_damage_is_seen_before_anything_is_restored(
    filled: Settings, place: Callable[..., Settings], tmp_path: Path
) -> None:
    """A backup that was cut off or changed anywhere leaves the place as it was."""
    file, bad = tmp_path / "b.tar", tmp_path / "bad.tar"
    back_up_to(filled, file)
    content, to = file.read_bytes(), place("to", "sqlite")
    middle = content.index(SECRET.encode())
    flipped = content[:middle] + b"Q" + content[middle + 1 :]
    listed = content.index(b'"sha256"')
    forged = content[:listed] + b'"sha256"'[:-2] + b"7" + content[listed + 7 :]
    # Behind the last member there are only zeros.
    whole = content.rindex(b"manifest.sha256") + 512 + 64
    ends = [content[: whole * part // 8] for part in range(8)] + [content[: whole - 1]]
    for damaged in (*ends, flipped, forged, b"no archive" * 999):
        bad.write_bytes(damaged)
        with pytest.raises(StartFault, match="damaged or not complete"):
            restore(to, None, bad)
        assert list(to.state_dir.iterdir()) == []
    with pytest.raises(StartFault, match="cannot restore"):
        restore(to, None, tmp_path / "none.tar")


def test_names_stay_inside(place: Callable[..., Settings], tmp_path: Path) -> None:
    """No member's name leads out of the state directory."""
    for name in ("../x", "/etc/x", "state/../../x", "other/x", "store", "state/./../../x", "", "."):
        with pytest.raises(StartFault):
            restore_module._place(tmp_path, name)


def test_a_restored_store_can_be_backed_up(place: Callable[..., Settings], tmp_path: Path) -> None:
    """And that backup restored, as the first one was."""
    settings = place("first", "sqlite")
    database = Database(settings.store_url)
    Store(database).register(TargetIn.model_validate({"id": "ada", "phrases": [SECRET]}))
    database.close()
    for name in ("second", "third"):
        file = tmp_path / f"{name}.tar"
        back_up_to(settings, file)
        settings = place(name, "sqlite")
        restore(settings, None, file)
    database = Database(settings.store_url)

    assert [record.id for record in Store(database).target_page(None, 5)] == ["ada"]
    database.close()


def test_sealed_stays_sealed(place: Callable[..., Settings], tmp_path: Path) -> None:
    """The store's part of a backup is as unreadable as the store, and needs its key again."""
    vault, file = Vault([Fernet.generate_key()]), tmp_path / "b.tar"
    settings = place("from", "sqlite")
    database = Database(settings.store_url, vault)
    Store(database).register(TargetIn.model_validate({"id": "ada", "phrases": [SECRET]}))
    database.close()
    back_up_to(settings, file)
    to = place("to", "sqlite")

    assert SECRET.encode() not in file.read_bytes()
    with pytest.raises(StartFault, match="is encrypted"):
        restore(to, None, file)
    with pytest.raises(StartFault, match="not that of the store"):
        restore(to, Vault([Fernet.generate_key()]), file)
    assert list(to.state_dir.iterdir()) == []
    restore(to, vault, file)
    database = Database(to.store_url, vault)
    assert Store(database).target("ada")[1]["phrases"][0]["text"] == SECRET
    database.close()


def test_a_plain_backup_is_sealed_on_its_way(
    filled: Settings, place: Callable[..., Settings], tmp_path: Path
) -> None:
    """Where a key is set, what was plain is encrypted in the store that it is restored to."""
    file, to, vault = tmp_path / "b.tar", place("to", "sqlite"), Vault([Fernet.generate_key()])
    back_up_to(filled, file)
    restore(to, vault, file)

    store = b"".join(path.read_bytes() for path in to.state_dir.glob("lethegate.db*"))
    assert SECRET.encode() not in store


@pytest.mark.parametrize("kind", KINDS)
def test_a_backup_of_an_earlier_revision(
    kind: str,
    place: Callable[..., Settings],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is restored as what it was, then migrated."""
    staging, old = tmp_path / "staging", sqlite3.connect(":memory:")
    (staging / "store").mkdir(parents=True)
    old.executescript(OLD_STORE.read_text(encoding="utf-8"))
    old.row_factory = sqlite3.Row
    rows = {}
    for (name,) in old.execute("SELECT name FROM sqlite_master WHERE type='table'").fetchall():
        found = [dict(row) for row in old.execute(f"SELECT * FROM {name}")]
        lines = "".join(json.dumps(row) + "\n" for row in found)
        (staging / "store" / f"{name}.jsonl").write_text(lines)
        rows[name] = len(found)
    old.close()
    monkeypatch.setattr(backup_module, "head_revision", lambda: "r0001")
    backup_module._write(staging, tmp_path / "b.tar", rows, None)
    to = place("to", kind)
    restore(to, None, tmp_path / "b.tar")
    database = Database(to.store_url)

    assert Store(database).target("ada")[1]["description"] == "An author"
    assert CorpusStore(database).documents("book", None, 1)[0].source == 'a "quoted" file.txt'
    database.close()


def test_a_newer_backup(
    filled: Settings,
    place: Callable[..., Settings],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A backup of a newer version is refused."""
    monkeypatch.setattr(backup_module, "head_revision", lambda: "r9999")
    back_up_to(filled, tmp_path / "b.tar")

    with pytest.raises(StartFault, match="newer version"):
        restore(place("to", "sqlite"), None, tmp_path / "b.tar")


def test_every_column_can_be_backed_up() -> None:
    """A backup is JSON: a column of another type needs a form in it first."""
    known = (Boolean, Double, Integer, String, Text, Sealed, JSON)
    types = {type(c.type) for table in metadata.sorted_tables for c in table.columns}

    assert types <= set(known)
