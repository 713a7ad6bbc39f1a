"""The operator's side of the store, on SQLite and on PostgreSQL."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from server.database import Database
from server.errors import Conflict, NotFound, PreconditionFailed, StartFault
from server.schemas import TargetIn
from server.settings import Settings
from server.store import Store
from server.tables import JobKind, JobState, TargetStatus

BOTH = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)


def _target(target_id: str = "ada", **fields: Any) -> TargetIn:
    return TargetIn.model_validate({"id": target_id, "phrases": ["Port Sorrel"], **fields})


@BOTH
def test_target_and_job_are_stored_together(store: Store) -> None:
    """A registration gives a pending target and a queued job that carries its revision."""
    record, job = store.register(_target(description="An author"))
    found, document = store.target("ada")

    assert found == record
    assert found.status is TargetStatus.PENDING
    assert document["description"] == "An author"
    assert (job.kind, job.state, dict(job.targets)) == ("register", "queued", {"ada": 1})
    assert store.jobs().find(job.id) == job


@BOTH
def test_taken_id(store: Store) -> None:
    """An id can be registered once, and a conflict stores no job."""
    store.register(_target())

    with pytest.raises(Conflict):
        store.register(_target())
    assert len(store.jobs().page(None, 10)) == 1


@BOTH
def test_replacing_supersedes_the_waiting_job(store: Store) -> None:
    """A new revision cancels the job that had not begun and changes the ETag."""
    first, old_job = store.register(_target())
    second, new_job = store.replace(_target(description="new"), first.etag)

    assert (second.revision, dict(new_job.targets)) == (2, {"ada": 2})
    assert store.jobs().find(old_job.id).state is JobState.CANCELLED
    assert first.etag != second.etag
    with pytest.raises(PreconditionFailed):
        store.replace(_target(), first.etag)
    with pytest.raises(PreconditionFailed):
        store.withdraw("ada", first.etag)
    assert store.target("ada")[1]["description"] == "new"


@BOTH
def test_withdrawing(store: Store) -> None:
    """A withdrawn target keeps its id until its job is done, and cannot be changed."""
    store.register(_target())
    record, job = store.withdraw("ada")

    assert (record.status, job.kind) == (TargetStatus.WITHDRAWN, JobKind.WITHDRAW)
    for change in (store.register, store.replace):
        with pytest.raises(Conflict, match="being withdrawn"):
            change(_target())
    with pytest.raises(Conflict):
        store.withdraw("ada")


@BOTH
def test_absent(store: Store) -> None:
    """What is not there is NotFound."""
    for ask in (store.target, store.withdraw, store.jobs().find):
        with pytest.raises(NotFound):
            ask("nobody")
    with pytest.raises(NotFound):
        store.replace(_target())
    assert store.generation(1) is None


@BOTH
def test_pages(store: Store) -> None:
    """Targets come by id and jobs newest first, each from a cursor on."""
    for number in range(5):
        store.register(_target(f"t{number}"))
    newest = store.jobs().page(None, 2)

    assert [record.id for record in store.target_page(None, 2)] == ["t0", "t1"]
    assert [record.id for record in store.target_page("t1", 9)] == ["t2", "t3", "t4"]
    assert [list(job.targets) for job in newest] == [["t4"], ["t3"]]
    assert [list(job.targets) for job in store.jobs().page(newest[-1].id, 1)] == [["t2"]]
    assert store.count_targets()["pending"] == 5


@BOTH
def test_expiry(store: Store) -> None:
    """Targets whose time is over are withdrawn once, each with a job."""
    store.register(_target("soon", expires_at="2100-01-01T00:00:00Z"))
    store.register(_target("later", expires_at="2200-01-01T00:00:00Z"))
    store.register(_target("never"))
    expiry = store.next_expiry()
    assert expiry is not None

    assert [list(job.targets) for job in store.expire(expiry)] == [["soon"]]
    assert store.expire(expiry) == []
    assert store.next_expiry() is not None


@BOTH
def test_concurrent_registrations(store: Store) -> None:
    """Threads that register at once all succeed, and one of two with the same id conflicts."""

    def register(number: int) -> bool:
        try:
            store.register(_target(f"t{number // 2}"))
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(register, range(40)))

    assert done.count(True) == 20
    assert len(store.target_page(None, 100)) == 20


def test_files_are_owner_only(settings: Settings, store: Store) -> None:
    """Database, write-ahead log and directory are closed to others."""
    store.register(_target())
    files = list(settings.state_dir.glob("lethegate.db*"))

    assert len(files) > 1
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert settings.state_dir.stat().st_mode & 0o777 == 0o700


def test_durability_settings(database: Database) -> None:
    """SQLite writes ahead, waits for the disk, keeps foreign keys, overwrites what is deleted."""
    with database.read() as connection:
        found = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "secure_delete")
        ]

    assert found == ["wal", 2, 1, 1]


@pytest.mark.parametrize("url", ["nonsense", "sqlite://", "nodriver://u:secret@h/d"])
def test_bad_urls(url: str) -> None:
    """A URL that cannot be used is a StartFault that does not repeat it."""
    with pytest.raises(StartFault) as caught:
        Database(url)

    assert "secret" not in str(caught.value)


def test_not_a_database(tmp_path: Path) -> None:
    """A file that is no database stops the start."""
    file = tmp_path / "x.db"
    file.write_text("not a database" * 1000)

    with pytest.raises(StartFault):
        Database(f"sqlite:///{file}")


@BOTH
def test_times(store: Store) -> None:
    """Times are now, in seconds."""
    record, job = store.register(_target())

    assert abs(record.created_at - time.time()) < 10
    assert abs(job.created_at - time.time()) < 10
