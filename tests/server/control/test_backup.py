"""Backups: whole or not at all, from either database to either, and never over something else."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import Boolean, Double, Integer, String, Text
from sqlalchemy.types import JSON

from server import backup as backup_module
from server import restore as restore_module
from server.auth import Role
from server.backup import back_up
from server.database import Database
from server.errors import StartFault
from server.keys.store import KeyStore
from server.provenance.schemas import CorpusIn
from server.provenance.store import CorpusStore
from server.restore import MARKER, refuse_half_restored, restore
from server.schemas import TargetIn
from server.sealing import Sealed, Vault
from server.settings import Settings
from server.state_dir import own_directory
from server.store import Store
from server.tables import metadata

KINDS = ["sqlite", "postgresql"]
SECRET = "quokka-lantern-7719"
OLD_STORE = Path(__file__).with_name("store-before-migrations.sql")


def _fill(settings: Settings, database: Database) -> None:
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


def _content(database: Database) -> dict[str, list[Any]]:
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


@pytest.fixture
def place(tmp_path: Path, empty_url: Callable[[str], str]) -> Callable[..., Settings]:
    """Makes settings of an empty state directory with an empty store of a kind."""

    def make(name: str, kind: str) -> Settings:
        state_dir = tmp_path / name
        own_directory(state_dir)
        url = empty_url(kind) if kind == "postgresql" else None
        return Settings.model_validate({"state_dir": state_dir, "database_url": url})

    return make


@pytest.fixture
def filled(place: Callable[..., Settings], request: pytest.FixtureRequest) -> Settings:
    """A place with targets, jobs, keys, corpora and assistants."""
    settings = place("from", getattr(request, "param", "sqlite"))
    database = Database(settings.store_url)
    _fill(settings, database)
    database.close()
    return settings


def _back_up(settings: Settings, file: Path) -> Any:
    database = Database(settings.store_url, prepare=lambda connection: None)
    try:
        return back_up(settings, database, file)
    finally:
        database.close()


def _left(settings: Settings) -> set[str]:
    return {path.name for path in settings.state_dir.iterdir()} - {
        "lethegate.db",
        "lethegate.db-wal",
        "lethegate.db-shm",
    }


@pytest.mark.parametrize("filled", KINDS, indirect=True)
@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back(
    filled: Settings, kind: str, place: Callable[..., Settings], tmp_path: Path
) -> None:
    """What is restored is what there was, on either database, and it can be worked with."""
    file, to = tmp_path / "b.tar", place("to", kind)
    report = _back_up(filled, file)
    rows = restore(to, None, file)
    before, after = Database(filled.store_url), Database(to.store_url)

    assert (report.targets, rows["targets"], report.files) == (3, 3, 4)
    assert file.stat().st_mode & 0o777 == 0o600
    assert _content(after) == _content(before)
    assert _left(to) == {"corpora", "assistants", "admin.key"}
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
    _back_up(filled, file)
    with pytest.raises(StartFault, match="exists"):
        _back_up(filled, file)
    with pytest.raises(StartFault, match="not empty: it has corpora"):
        restore(filled, None, file)
    full = place("full", "sqlite")
    database = Database(full.store_url)
    Store(database).register(TargetIn.model_validate({"id": "mine", "phrases": ["x"]}))
    database.close()
    with pytest.raises(StartFault, match="not empty"):
        restore(full, None, file)

    assert _left(full) == set()
    database = Database(full.store_url)
    assert [record.id for record in Store(database).target_page(None, 5)] == ["mine"]
    database.close()
    assert "from" in str(filled.state_dir)
    assert _left(filled) == {"corpora", "assistants", "admin.key"}


def test_damage_is_seen_before_anything_is_restored(
    filled: Settings, place: Callable[..., Settings], tmp_path: Path
) -> None:
    """A backup that was cut off or changed anywhere leaves the place as it was."""
    file, bad = tmp_path / "b.tar", tmp_path / "bad.tar"
    _back_up(filled, file)
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
        _back_up(settings, file)
        settings = place(name, "sqlite")
        restore(settings, None, file)
    database = Database(settings.store_url)

    assert [record.id for record in Store(database).target_page(None, 5)] == ["ada"]
    database.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", ["_note", "_put", "_load", "unlink"])
def test_a_restore_that_was_killed(
    filled: Settings,
    kind: str,
    step: str,
    place: Callable[..., Settings],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After any step: nothing starts on half of a state, and the same command completes it."""
    file, to = tmp_path / "b.tar", place("to", kind)
    _back_up(filled, file)
    child = os.fork()
    if child == 0:
        _die_after(step)
        restore(to, None, file)
        os._exit(0)
    assert os.waitpid(child, 0)[1] >> 8 == 9
    if step == "unlink":
        refuse_half_restored(to.state_dir)
        return
    with pytest.raises(StartFault, match="cut short"):
        refuse_half_restored(to.state_dir)
    restore(to, None, file)
    refuse_half_restored(to.state_dir)

    before, after = Database(filled.store_url), Database(to.store_url)
    assert _content(after) == _content(before)
    assert _left(to) == {"corpora", "assistants", "admin.key"}
    before.close()
    after.close()


def _die_after(step: str) -> None:
    """End this process at once, as kill -9 would, after a step."""
    owner: Any = restore_module if step != "unlink" else Path
    original = getattr(owner, step)

    def dying(*arguments: Any, **options: Any) -> None:
        original(*arguments, **options)
        if step != "unlink" or arguments[0].name == MARKER:
            os._exit(9)

    setattr(owner, step, dying)


@pytest.mark.parametrize("step", ["_dump", "_stage", "_add_bytes"])
def test_a_backup_that_was_killed(filled: Settings, step: str, tmp_path: Path) -> None:
    """There is no file of that name, and the next backup removes what was left."""
    file = tmp_path / "b.tar"
    child = os.fork()
    if child == 0:
        original = getattr(backup_module, step)

        def dying(*arguments: Any) -> None:
            original(*arguments)
            os._exit(9)

        setattr(backup_module, step, dying)
        _back_up(filled, file)
        os._exit(0)
    assert os.waitpid(child, 0)[1] >> 8 == 9
    assert not file.exists()
    assert any(name.startswith(".backup-") for name in _left(filled))
    assert bool(_drafts(tmp_path)) is (step == "_add_bytes")
    _back_up(filled, tmp_path / "another.tar")

    assert _left(filled) == {"corpora", "assistants", "admin.key"}
    assert _drafts(tmp_path) == []


def _drafts(folder: Path) -> list[Path]:
    return list(folder.glob(".*.lethegate-backup"))


def test_the_draft_of_a_backup_that_runs_is_left_alone(
    filled: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another backup into the same folder ends meanwhile, and removes neither it nor a file."""
    others = tmp_path / ".b.tar.draft"
    others.write_text("another's")
    add, seen = backup_module._add_bytes, []

    def late(archive: Any, name: str, content: bytes) -> None:
        if name == backup_module.MANIFEST and not seen:
            seen.append(_drafts(tmp_path))
            _back_up(filled, tmp_path / "second.tar")
            seen.append(_drafts(tmp_path))
        add(archive, name, content)

    monkeypatch.setattr(backup_module, "_add_bytes", late)
    _back_up(filled, tmp_path / "first.tar")

    assert len(seen[0]) == 1
    assert seen[0] == seen[1]
    assert _drafts(tmp_path) == []
    assert (tmp_path / "first.tar").exists()
    assert others.read_text() == "another's"


def test_two_backups_at_once(
    filled: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither takes the other's folder for a killed one's; both are whole."""
    first, second = tmp_path / "first.tar", tmp_path / "second.tar"
    write = backup_module._write

    def late(folder: Path, file: Path, *arguments: Any) -> Any:
        if file == first:
            _back_up(filled, second)
        return write(folder, file, *arguments)

    monkeypatch.setattr(backup_module, "_write", late)
    report = _back_up(filled, first)

    assert (report.targets, report.files) == (3, 4)
    assert first.stat().st_size == second.stat().st_size
    assert _left(filled) == {"corpora", "assistants", "admin.key"}


def test_without_hard_links(
    filled: Settings,
    place: Callable[..., Settings],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Files are copied instead, and still no other file is replaced."""

    def refuse(path: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    file, taken, to = tmp_path / "b.tar", tmp_path / "taken.tar", place("to", "sqlite")
    monkeypatch.setattr(Path, "hardlink_to", refuse)
    _back_up(filled, file)
    write = backup_module._write

    def late(folder: Path, file: Path, *arguments: Any) -> Any:
        file.write_text("another's")
        return write(folder, file, *arguments)

    monkeypatch.setattr(backup_module, "_write", late)
    with pytest.raises(StartFault, match="File exists"):
        _back_up(filled, taken)

    assert restore(to, None, file)["targets"] == 3
    assert taken.read_text() == "another's"
    assert file.stat().st_mode & 0o777 == 0o600
    assert {path.name for path in tmp_path.glob("*.tar")} == {"b.tar", "taken.tar"}
    assert _drafts(tmp_path) == []


def test_sealed_stays_sealed(place: Callable[..., Settings], tmp_path: Path) -> None:
    """The store's part of a backup is as unreadable as the store, and needs its key again."""
    vault, file = Vault([Fernet.generate_key()]), tmp_path / "b.tar"
    settings = place("from", "sqlite")
    database = Database(settings.store_url, vault)
    Store(database).register(TargetIn.model_validate({"id": "ada", "phrases": [SECRET]}))
    database.close()
    _back_up(settings, file)
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
    _back_up(filled, file)
    restore(to, vault, file)

    store = b"".join(path.read_bytes() for path in to.state_dir.glob("lethegate.db*"))
    assert SECRET.encode() not in store


@pytest.mark.parametrize("filled", KINDS, indirect=True)
def test_changes_meanwhile(
    filled: Settings, place: Callable[..., Settings], tmp_path: Path
) -> None:
    """A backup is of one moment: no target without its revision, no job without its target."""
    database, stop = Database(filled.store_url), threading.Event()
    store = Store(database)

    def register() -> None:
        number = 0
        while not stop.is_set():
            store.register(TargetIn.model_validate({"id": f"m{number}", "phrases": ["x"]}))
            number += 1

    writer = threading.Thread(target=register)
    writer.start()
    try:
        _back_up(filled, tmp_path / "b.tar")
    finally:
        stop.set()
        writer.join()
        database.close()
    to = place("to", "sqlite")
    restore(to, None, tmp_path / "b.tar")
    found = _content(after := Database(to.store_url))
    after.close()

    ids = {row[0] for row in found["targets"]}
    assert {row[0] for row in found["versions"]} == ids
    assert {row[1] for row in found["job_targets"]} == ids


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
    _back_up(filled, tmp_path / "b.tar")

    with pytest.raises(StartFault, match="newer version"):
        restore(place("to", "sqlite"), None, tmp_path / "b.tar")


def test_every_column_can_be_backed_up() -> None:
    """A backup is JSON: a column of another type needs a form in it first."""
    known = (Boolean, Double, Integer, String, Text, Sealed, JSON)
    types = {type(c.type) for table in metadata.sorted_tables for c in table.columns}

    assert types <= set(known)
