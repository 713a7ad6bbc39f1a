"""Machine time tells a machine that ran from one that was stopped."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from server.bench import machine_time
from server.bench.machine_time import MachineTime


def write(path: Path, ticks: int) -> None:
    path.write_text(f"cpu {ticks} 0 0 0 0 0 0 999999 0 0\ncpu0 1 2 3\n")


def test_ticks_that_are_missing_are_time_that_was_not_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten seconds by the clock, five of them on both cores; stolen ticks count for nothing."""
    clock = iter([100.0, 110.0])
    monkeypatch.setattr(machine_time, "_STAT", tmp_path / "stat")
    monkeypatch.setattr(machine_time.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(machine_time.os, "sysconf", lambda name: 100)
    # Its own clock, not the process's: threads that other tests left would ask that one, too.
    monkeypatch.setattr(machine_time, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    write(tmp_path / "stat", 7000)
    machine = MachineTime()
    write(tmp_path / "stat", 8000)

    assert machine.share() == pytest.approx(0.5)


def test_the_real_machine_runs() -> None:
    """Most of a short while at least."""
    machine = MachineTime()
    time.sleep(0.3)

    assert 0 < machine.share() <= 1
