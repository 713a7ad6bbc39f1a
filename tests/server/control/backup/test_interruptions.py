"""Backups and restores that are killed, or that others run beside: whole or not at all."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from server import backup as backup_module
from server import restore as restore_module
from server.database import Database
from server.errors import StartFault
from server.restore import MARKER, refuse_half_restored, restore
from server.schemas import TargetIn
from server.settings import Settings
from server.store import Store
from tests.server.control.backup.places import KINDS, back_up_to, drafts, left, store_content


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
    back_up_to(filled, file)
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
    assert store_content(after) == store_content(before)
    assert left(to) == {"corpora", "assistants", "admin.key"}
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
        back_up_to(filled, file)
        os._exit(0)
    assert os.waitpid(child, 0)[1] >> 8 == 9
    assert not file.exists()
    assert any(name.startswith(".backup-") for name in left(filled))
    assert bool(drafts(tmp_path)) is (step == "_add_bytes")
    back_up_to(filled, tmp_path / "another.tar")

    assert left(filled) == {"corpora", "assistants", "admin.key"}
    assert drafts(tmp_path) == []


def test_the_draft_of_a_backup_that_runs_is_left_alone(
    filled: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another backup into the same folder ends meanwhile, and removes neither it nor a file."""
    others = tmp_path / ".b.tar.draft"
    others.write_text("another's")
    add, seen = backup_module._add_bytes, []

    def late(archive: Any, name: str, content: bytes) -> None:
        if name == backup_module.MANIFEST and not seen:
            seen.append(drafts(tmp_path))
            back_up_to(filled, tmp_path / "second.tar")
            seen.append(drafts(tmp_path))
        add(archive, name, content)

    monkeypatch.setattr(backup_module, "_add_bytes", late)
    back_up_to(filled, tmp_path / "first.tar")

    assert len(seen[0]) == 1
    assert seen[0] == seen[1]
    assert drafts(tmp_path) == []
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
            back_up_to(filled, second)
        return write(folder, file, *arguments)

    monkeypatch.setattr(backup_module, "_write", late)
    report = back_up_to(filled, first)

    assert (report.targets, report.files) == (3, 4)
    assert first.stat().st_size == second.stat().st_size
    assert left(filled) == {"corpora", "assistants", "admin.key"}


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
    back_up_to(filled, file)
    write = backup_module._write

    def late(folder: Path, file: Path, *arguments: Any) -> Any:
        file.write_text("another's")
        return write(folder, file, *arguments)

    monkeypatch.setattr(backup_module, "_write", late)
    with pytest.raises(StartFault, match="File exists"):
        back_up_to(filled, taken)

    assert restore(to, None, file)["targets"] == 3
    assert taken.read_text() == "another's"
    assert file.stat().st_mode & 0o777 == 0o600
    assert {path.name for path in tmp_path.glob("*.tar")} == {"b.tar", "taken.tar"}
    assert drafts(tmp_path) == []


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
        back_up_to(filled, tmp_path / "b.tar")
    finally:
        stop.set()
        writer.join()
        database.close()
    to = place("to", "sqlite")
    restore(to, None, tmp_path / "b.tar")
    found = store_content(after := Database(to.store_url))
    after.close()

    ids = {row[0] for row in found["targets"]}
    assert {row[0] for row in found["versions"]} == ids
    assert {row[1] for row in found["job_targets"]} == ids
