"""The bench of what the clock tells, small."""

from __future__ import annotations

import pytest
from rich.progress import Progress

from server import screening
from server.bench import oracle
from server.bench.oracle import OraclePlan, bench_oracle
from tests.hash_encoder import HashEncoder


def test_the_bench_reports_every_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A time for each arm, and what every compared pair of them tells."""
    for module in (oracle, screening):
        monkeypatch.setattr(module, "load_encoder", lambda *a, **k: HashEncoder())
    figures = bench_oracle(OraclePlan(4, "hash", "cpu"), Progress(disable=True))

    for arm in ("unmatched", "steered", "refused_small", "refused_large", "repeated_steered"):
        assert figures[f"{arm}_ms"] > 0
    told = [value for name, value in figures.items() if name.startswith("told_by_time_")]
    assert len(told) == 3
    assert all(0 <= value <= 1 for value in told)


def test_what_times_tell() -> None:
    """Equal times tell nothing, times apart tell all."""
    assert oracle._told([1, 2, 3], [1, 2, 3]) == 0.5
    assert oracle._told([4, 5], [1, 2, 3]) == 1.0
    assert oracle._told([1, 4], [2, 3]) == 0.5
