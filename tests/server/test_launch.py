"""The control process as a child: it may die of anything, and the server goes on."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from server import launch
from server.control import START_AGAIN
from server.launch import Child
from server.settings import Settings

Run = Callable[..., Child]


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the server was sent to end it."""
    sent: list[int] = []
    kill = os.kill

    def note(pid: int, number: int) -> None:
        if pid == os.getpid():
            sent.append(number)
        else:
            kill(pid, number)

    monkeypatch.setattr("server.launch.os.kill", note)
    return sent


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, signals: list[int], tmp_path: Path) -> Iterator[Run]:
    """Starts a child that notes every start and ends each time as it is told."""
    monkeypatch.setattr(launch, "_BACKOFF_SECONDS", (0.01,))
    started: list[Child] = []

    def start(*endings: str) -> Child:
        child = Child("control", [])
        code = (
            "import os, pathlib, sys, time\n"
            "starts = pathlib.Path(sys.argv[1])\n"
            "count = len(starts.read_text()) if starts.exists() else 0\n"
            "starts.write_text('x' * (count + 1))\n"
            "exec(sys.argv[2 + count] if count + 2 < len(sys.argv) else 'time.sleep(600)')\n"
        )
        child._command = [sys.executable, "-c", code, str(tmp_path / "starts"), *endings]
        child.start()
        started.append(child)
        return child

    yield start
    for child in started:
        child.stop()


def _starts(tmp_path: Path) -> int:
    path = tmp_path / "starts"
    return len(path.read_text()) if path.exists() else 0


def _until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.02)


def test_a_node_has_no_control_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `control_url` the process beside the engine is the node's."""
    given = {"control_url": "http://127.0.0.1:1", "node_key": "k"}
    args = argparse.Namespace(model="m", tokenizer="t", trust_remote_code=True)

    assert launch._child(Settings.model_validate(given), args)._command[-2:] == launch.NODE
    command = [sys.executable, "-P", "-m", "server", "control", "--with-parent"]
    models = ["--model", "m", "--tokenizer", "t", "--trust-remote-code"]
    assert launch._child(Settings(), args)._command == command + models


def test_a_control_process_that_cannot_start_ends_the_server(
    run: Run, signals: list[int], tmp_path: Path
) -> None:
    """A wrong address does not mend itself, and nobody would notice it in a log."""
    child = run("sys.exit(1)")
    _until(lambda: signals)

    assert (child.failed, signals) == (True, [signal.SIGTERM])
    assert _starts(tmp_path) == 1


@pytest.mark.parametrize("first", [f"sys.exit({START_AGAIN})", "os.kill(os.getpid(), 9)"])
def test_whatever_it_dies_of_later_the_server_goes_on(
    run: Run, signals: list[int], tmp_path: Path, first: str
) -> None:
    """It lost its lease, its store went away, or it was killed: it is started again and again."""
    child = run(first, "sys.exit(1)", "sys.exit(0)")
    _until(lambda: _starts(tmp_path) == 4)

    assert not child.failed
    assert signals == []
