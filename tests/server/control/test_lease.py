"""Several control processes on one PostgreSQL: one leads, and another takes over when it dies."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from guard.follower import ActivePointer, Follower
from server.activation import SnapshotPublisher
from server.database import Database
from server.errors import LeaseLost
from server.lease import Lease
from server.policy import Pointer
from server.settings import Settings
from server.tables import leases

POSTGRES = pytest.mark.parametrize("database", ["postgresql"], indirect=True)


@pytest.fixture
def claim(database: Database) -> Iterator[Callable[..., Lease]]:
    """Makes leases of a second."""
    made: list[Lease] = []

    def make(holder: str, **options: Any) -> Lease:
        made.append(Lease(database, holder, seconds=1.0, **options))
        return made[-1]

    yield make
    for lease in made:
        lease.release()


@POSTGRES
def test_one_leads_and_the_next_follows(
    claim: Callable[..., Lease], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second waits while the first renews, and leads at once when it gives back.

    The clock goes on only when the first has renewed: threads may stand still for seconds.
    """
    clock, looked = [1000.0], []

    def now(lease: Lease, _connection: Any) -> float:
        looked.append(lease)
        return clock[0]

    monkeypatch.setattr(Lease, "_now", now)
    first, second = claim("a"), claim("b")
    assert first.acquire()
    waiting = threading.Thread(target=second.acquire)
    waiting.start()
    for _ in range(3):
        clock[0] += 0.9
        _until(lambda: _expiry(database) == clock[0] + 1)
        looked.clear()
        _until(lambda: second in looked and second.stands_by)

    assert (first.is_held, second.is_held, second.stands_by) == (True, False, True)
    first.release()
    waiting.join(60)
    assert (first.is_held, second.is_held, second.stands_by) == (False, True, False)
    assert second.epoch == first.epoch + 1


def _expiry(database: Database) -> float:
    with database.read() as connection:
        return float(connection.scalar(select(leases.c.expires_at)) or 0)


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "the condition never held"
        time.sleep(0.01)


@POSTGRES
def test_whoever_lost_the_lease_writes_nothing(
    claim: Callable[..., Lease], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A holder that hung while its time ran out finds that another leads, before it writes."""
    told = threading.Event()
    first, second = claim("a", on_lost=told.set), claim("b")
    renews = threading.Event()
    keep = first._keep
    monkeypatch.setattr(first._thread, "_target", lambda: (renews.wait(), keep()))
    assert first.acquire()
    assert second.acquire()  # after a second, when the first's time is over

    with pytest.raises(LeaseLost), first.write():
        pytest.fail("the block must not be entered")
    assert first.is_held
    renews.set()
    assert told.wait(60)
    assert not first.is_held
    with second.write():
        pass


@POSTGRES
def test_whoever_lost_the_lease_puts_nothing_in_force(
    claim: Callable[..., Lease],
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where it lost it between recording a generation and moving the pointer to it."""
    first, second = claim("a"), claim("b")
    old, new = (SnapshotPublisher(settings.state_dir, settings.snapshots) for _ in range(2))
    monkeypatch.setattr(first._thread, "_target", lambda: None)  # it hangs
    assert first.acquire()
    old.claim(first.epoch)
    old.publish(1, "a" * 64)
    assert second.acquire()
    new.claim(second.epoch)

    with pytest.raises(LeaseLost):
        old.publish(2, "b" * 64)
    assert new.read() == Pointer(1, "a" * 64)
    new.publish(2, "c" * 64)
    with pytest.raises(LeaseLost):
        old.claim(first.epoch)


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_store_behind_the_pointer(claim: Callable[..., Lease]) -> None:
    """A store that was restored does not know its leads; the next one is later all the same."""
    lease = claim("a", above=lambda: 41)
    assert lease.acquire()
    assert lease.epoch == 42


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_file_has_one_holder(claim: Callable[..., Lease]) -> None:
    """On SQLite nobody waits for a dead process: the state directory's lock went with it."""
    dead, alive = claim("a"), claim("b")
    assert dead.acquire()
    assert alive.acquire()

    with pytest.raises(LeaseLost), dead.write():
        pytest.fail("the block must not be entered")


def _ready(control: Any) -> str:
    answer = httpx.get(f"http://127.0.0.1:{control.port}/readyz", trust_env=False)
    return str(answer.json().get("status", ""))


def _register(control: Any, name: str) -> str:
    target = {"id": name, "phrases": ["x"], "description": name}
    answer = control.http.post("/targets", json=target)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["job"]["id"])


def _active(control: Any) -> set[str]:
    page = control.http.get("/targets", params={"limit": 1000}).json()["targets"]
    return {target["id"] for target in page if target["status"] == "active"}


def _epoch(control: Any) -> int:
    active = ActivePointer(control.state_dir).read()
    assert active is not None
    return active.epoch


def test_the_leader_is_killed(
    make_control: Callable[..., Any], empty_url: Callable[[str], str]
) -> None:
    """kill -9 of the leader loses no registration; the standby takes over and goes on."""
    url = empty_url("postgresql")
    first, second = make_control(url), make_control(url)
    first.start()
    first.until(lambda: _ready(first) == "ready")
    second.start()
    second.until(lambda: _ready(second) == "standby")
    follower = Follower(first.state_dir, "worker", lambda active: None)
    follower.start()

    through_standby = _register(second, "t0")
    second.until(lambda: second.http.get(f"/jobs/{through_standby}").json()["state"] == "done")
    refused = second.http.post("/corpora", json={"id": "book"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")
    before = follower.state.generation
    for number in range(1, 9):
        _register((first, second)[number % 2], f"t{number}")
    epoch = _epoch(first)
    first.kill()
    second.until(lambda: _ready(second) == "ready" and len(_active(second)) == 9)
    assert _epoch(second) == epoch + 1
    assert follower.state.generation > before
    assert second.http.post("/corpora", json={"id": "book"}).status_code == 202

    follower.stop()
