"""A worker does not outlive a server that was killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from guard.server_life import SERVER_PID, end_with_server

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
time.sleep(60)
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
    end = time.monotonic() + 10
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
