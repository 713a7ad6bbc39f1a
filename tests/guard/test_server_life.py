"""A worker does not outlive a server that was killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from guard.server_life import SERVER_PID, end_with_server
from server import admin_port
from server.nodes import agent

# Server, engine and worker: each starts the next; the worker watches and ignores SIGTERM.
CODE = """
import os, signal, subprocess, sys, time
from guard import server_life
level = int(sys.argv[1])
if level == 0:
    os.environ[server_life.SERVER_PID] = str(os.getpid())
if level == 2:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    server_life.GRACE_SECONDS = 0.3
    print(os.getppid(), os.getpid(), server_life.end_with_server(), flush=True)
else:
    subprocess.Popen([sys.executable, "-c", sys.argv[2], str(level + 1), sys.argv[2]])
time.sleep(600)
"""


# Server and engine: the engine, which multiprocessing spawned, does nothing yet but load, and has
# spawned a worker that has not said anything either.
FAMILY = """
import multiprocessing, os, signal, time
def run(level, pids):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pids.put(os.getpid())
    if level:
        multiprocessing.get_context("spawn").Process(target=run, args=(level - 1, pids)).start()
    time.sleep(600)
"""
SPAWNING = """
import multiprocessing, os, time
from family import run
from guard import server_life
if __name__ == "__main__":
    os.environ[server_life.SERVER_PID] = str(os.getpid())
    server_life.watch_spawned()
    context = multiprocessing.get_context("spawn")
    pids = context.SimpleQueue()
    for each in range(2):
        context.Process(target=run, args=(each, pids)).start()
    print(*(pids.get() for _ in range(3)), flush=True)
    time.sleep(600)
"""


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_engine_and_worker_end_with_a_killed_server():
    """Also one that does not listen to SIGTERM."""
    command = [sys.executable, "-c", CODE, "0", CODE]
    home = Path(__file__).parents[2]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=home)
    engine, worker, watches = server.stdout.readline().split()
    time.sleep(0.3)

    assert watches == "True"
    assert is_alive(engine)
    assert is_alive(worker)

    server.send_signal(signal.SIGKILL)
    server.wait()
    server.stdout.close()
    end = time.monotonic() + 60
    while (is_alive(engine) or is_alive(worker)) and time.monotonic() < end:
        time.sleep(0.02)

    assert not is_alive(engine)
    assert not is_alive(worker)


@pytest.mark.parametrize("pid", [None, "", "x", "999999999", str(os.getpid())])
def test_without_a_server_above_nothing_is_watched(monkeypatch, pid):
    """On another machine the number is another process's, or nobody's."""
    monkeypatch.delenv(SERVER_PID, raising=False)
    if pid is not None:
        monkeypatch.setenv(SERVER_PID, pid)

    assert not end_with_server()


def test_whatever_is_spawned_ends_with_a_killed_server(tmp_path):
    """From its first instruction on, without a word of its own; also what that spawned.

    Whatever lies in the working directory: it may have a module of the package's name.
    """
    (tmp_path / "family.py").write_text(
        "from guard import server_life\nserver_life.GRACE_SECONDS = 0.3\n" + FAMILY
    )
    (tmp_path / "spawning.py").write_text(SPAWNING)
    (elsewhere := tmp_path / "elsewhere").mkdir()
    (elsewhere / "guard.py").write_text("raise SystemExit(3)")
    paths = f"{tmp_path}:{Path(__file__).parents[2]}"
    server = subprocess.Popen(
        [sys.executable, str(tmp_path / "spawning.py")],
        stdout=subprocess.PIPE,
        text=True,
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": paths},
    )
    pids = server.stdout.readline().split()

    assert len(pids) == 3
    assert all(map(is_alive, pids))

    server.send_signal(signal.SIGKILL)
    server.wait()
    server.stdout.close()
    end = time.monotonic() + 60
    while any(map(is_alive, pids)) and time.monotonic() < end:
        time.sleep(0.02)

    assert not any(map(is_alive, pids))


@pytest.mark.parametrize(("gone", "status"), [(True, 1), (False, 0)])
def test_what_begins_after_the_server_has_gone_ends_at_once(gone, status):
    """It was killed between spawning this process and its first instruction."""
    pid = "999999999" if gone else str(os.getpid())
    begun = subprocess.run(
        [sys.executable, "-c", "from guard.server_life import begin; begin(); print('on')"],
        env={**os.environ, SERVER_PID: pid},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )

    assert begun.returncode == status
    assert begun.stdout == ("" if gone else "on\n")


def test_a_control_process_that_loaded_too_long_ends(monkeypatch):
    """Its server was killed while it was loading its code: it has another parent already."""
    monkeypatch.setenv(SERVER_PID, "999999999")
    monkeypatch.setattr(agent.signal, "signal", lambda *_: None)
    server = SimpleNamespace(should_exit=False)
    admin_port.watch_parent(server)
    agent._wait_for_end(with_parent=True)

    assert server.should_exit
