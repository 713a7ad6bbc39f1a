"""The store, or a predecessor's hold on it, is in the way: what is in force stays in force."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from guard.follower import Follower
from server.control import START_AGAIN, _only_one
from server.database import Database
from server.errors import ControlRunning, StartFault, StoreAway, StoreFault

NOBODY_LISTENS = "postgresql+psycopg://lethegate@127.0.0.1:9/lethegate"


def _count(control: Any, part: str) -> float:
    found = httpx.get(f"http://127.0.0.1:{control.port}/metrics", trust_env=False, timeout=30).text
    line = re.search(
        rf'^lethegate_storage_failures_total{{part="{part}"}} (\S+)$', found, re.MULTILINE
    )
    assert line is not None
    return float(line[1])


def _is(control: Any, status: int) -> bool:
    url = f"http://127.0.0.1:{control.port}/readyz"
    return httpx.get(url, trust_env=False, timeout=30).status_code == status


def test_a_database_that_goes_away_and_comes_back(
    make_control: Callable[..., Any], empty_url: Callable[[str], str], postgres: Any
) -> None:
    """Readiness and a counter tell, changes are refused, followers go on; then all is well."""
    url = empty_url("postgresql")
    control = make_control(url)
    control.start()
    control.until(control.ready)
    follower = Follower(control.state_dir, "worker", lambda active: None)
    follower.start()
    generation = follower.state.generation
    postgres.admit(url, allowed=False)
    control.until(lambda: _is(control, 503))
    refused = control.http.post("/targets", json={"id": "t1", "phrases": ["x"]}, timeout=30)

    assert (refused.status_code, refused.json()["error"]["code"]) == (500, "store_error")
    assert _count(control, "store") > 0
    assert _count(control, "files") == 0
    assert follower.state.generation == generation > 0

    postgres.admit(url, allowed=True)
    control.until(lambda: _is(control, 200))
    job = control.http.post("/targets", json={"id": "t1", "phrases": ["x"]}).json()["job"]["id"]
    control.until(lambda: control.http.get(f"/jobs/{job}").json()["state"] == "done")

    assert follower.state.generation > generation
    follower.stop()


def test_a_database_that_is_away_at_the_start_ends_no_server(
    make_control: Callable[..., Any],
) -> None:
    """The process asks to be started again, by its status, and says why without the URL."""
    control = make_control(NOBODY_LISTENS)
    status = control.start().wait(60)
    log = (control.state_dir.parent / "log").read_text(encoding="utf-8")

    assert status == START_AGAIN
    assert "store_away" in log
    assert "127.0.0.1:9/" not in log


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("guarded:open%20says%20me@/{name}", "the user or the password is wrong"),
        ("guarded@/{name}", "the server asks for a password"),
        ("nobody@/{name}", "there is no such user"),
        ("lethegate@/nothing", "there is no such database"),
    ],
)
def test_a_database_that_refuses_for_good_is_told_at_once(
    empty_url: Callable[[str], str], url: str, reason: str
) -> None:
    """In one sentence, which names the setting and the reason, and nothing of the URL."""
    admitted = empty_url("postgresql")
    name, _, host = admitted.partition("@/")[2].partition("?")
    refused = f"postgresql://{url.format(name=name)}?{host}"
    with pytest.raises(StartFault) as fault:
        Database(refused)

    assert not isinstance(fault.value, StoreAway)
    assert str(fault.value) == f"database_url: {reason}"
    Database(admitted.replace("lethegate@", "guarded:open%20sesame@")).close()


def test_of_two_hosts_one_may_come_back(empty_url: Callable[[str], str]) -> None:
    """One refuses this process for good, the other is away: that is no reason to give up."""
    admitted = empty_url("postgresql")
    name, _, host = admitted.partition("@/")[2].partition("?")
    several = f"host={host.removeprefix('host=')}&host=127.0.0.1:9"
    with pytest.raises(StoreAway):
        Database(f"postgresql://nobody@/{name}?{several}")


@pytest.mark.parametrize(
    ("answer", "options", "reason"),
    [
        (b"N", "sslmode=require", "the server does not speak TLS"),
        (b"S", "sslmode=verify-full&sslrootcert=/no.pem", "certificate"),
        (b"", "sslmode=must", "there is no such sslmode"),
    ],
)
def test_tls_that_cannot_be_is_told_at_once(answer: bytes, options: str, reason: str) -> None:
    """The first bytes are as PostgreSQL's: whether it speaks TLS."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):  # nobody comes, or whoever came has left
                connection, _ = listener.accept()
                with connection:
                    connection.recv(8)
                    connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        port = listener.getsockname()[1]
        with pytest.raises(StartFault, match=f"^database_url: .*{reason}"):
            Database(f"postgresql://secretive:sesame@127.0.0.1:{port}/d?{options}")


def test_a_wrong_password_ends_the_start(
    make_control: Callable[..., Any], empty_url: Callable[[str], str]
) -> None:
    """Trying again would not mend it, and whoever starts it reads why."""
    url = empty_url("postgresql").replace("lethegate@", "guarded:sesame@")
    control = make_control(url)
    status = control.start().wait(60)
    log = (control.state_dir.parent / "log").read_text(encoding="utf-8")

    assert status not in (0, START_AGAIN)
    assert "database_url: the user or the password is wrong" in log
    assert "sesame" not in log


def test_every_fault_of_the_store_is_told(database: Database) -> None:
    """By whoever reads or writes it."""
    told: list[None] = []
    database.on_fault = lambda: told.append(None)
    for begin in (database.read, database.write):
        with pytest.raises(StoreFault), begin() as connection:
            connection.execute(text("SELECT * FROM nowhere"))

    assert len(told) == 2


def test_a_predecessor_is_waited_for(tmp_path: Path) -> None:
    """That of a server that was killed lets go of the directory a moment later."""
    held, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with _only_one(tmp_path):
            held.set()
            let_go.wait(60)

    predecessor = threading.Thread(target=hold)
    predecessor.start()
    assert held.wait(60)
    with pytest.raises(ControlRunning), _only_one(tmp_path):
        pass
    begun = time.monotonic()
    threading.Timer(0.3, let_go.set).start()
    with _only_one(tmp_path, 60.0):
        waited = time.monotonic() - begun

    assert waited > 0.2
    predecessor.join()
