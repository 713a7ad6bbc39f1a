"""The bench of watched answers, small."""

from __future__ import annotations

from rich.progress import Progress

from server.bench.watch import NAMES, WatchPlan, bench_watch


def test_the_bench_reports_every_figure() -> None:
    """Passed, watched and traced, with and without log-probabilities."""
    figures = bench_watch(WatchPlan(3, 20, megabytes=0.2), Progress(disable=True))

    for prefix in ("", "logprobs_"):
        assert figures[f"{prefix}passed_us_per_chunk"] > 0
        assert figures[f"{prefix}traced_us_per_chunk"] > figures[f"{prefix}passed_us_per_chunk"]
        for count in NAMES:
            assert figures[f"{prefix}watched_{count}_names_us_per_chunk_max"] > 0
            assert f"{prefix}watched_{count}_names_added_us_per_chunk" in figures
