"""`lethegate bench uld` on a model of two layers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGTERM, getsignal, signal

import pytest
import torch
from typer.testing import CliRunner

from server.cli import app

SMALL = ["--base-layers", "2", "--hidden", "64", "--vocabulary", "512", "--text", "8"]
SMALL += ["--prompt", "300"]
run = CliRunner().invoke


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """The commands take over signals of their process, which is ours here; one thread is enough."""
    before = {number: getsignal(number) for number in (SIGINT, SIGTERM, SIGHUP)}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    for number, handler in before.items():
        signal(number, handler)


def test_it_states_cost_and_floor_per_batch(tmp_path: Path) -> None:
    """Flat figures with their spread, and what they were taken with."""
    path = tmp_path / "report.json"
    command = ["bench", "uld", "--json", str(path), *SMALL, "--layers", "1"]
    result = run(app, [*command, "--steps", "3", "--rounds", "3"])
    figures = json.loads(path.read_text())

    assert result.exit_code == 0, result.stderr
    for batch in (1, 8, 32):
        assert figures[f"batch{batch}_step_ratio"] >= 1
        assert figures[f"batch{batch}_floor_ratio"] > 0
        low, high = (figures[f"batch{batch}_assistant_ms_{end}"] for end in ("min", "max"))
        assert 0 < low <= figures[f"batch{batch}_assistant_ms"] <= high
    # Which of them is longer says nothing on a machine that stands still in between.
    for name in ("prompt_shared_ms", "prompt_whole_ms", "prompt_longest_chunk_ms"):
        assert figures[name] > 0
    assert (figures["layers"], figures["base_layers"], figures["model"]) == (1, 2, "random")
    assert {"machine", "versions", "command", "method", "threads"} <= set(figures)


@pytest.mark.parametrize("wrong", [["--layers", "2"], ["--dtype", "int8"], ["--model", "/no"]])
def test_what_cannot_be_measured_is_a_usage_error(tmp_path: Path, wrong: list[str]) -> None:
    """One line, status 2."""
    command = ["bench", "uld", "--json", str(tmp_path / "r.json"), *SMALL, "--layers", "1"]
    result = run(app, [*command, *wrong])

    assert result.exit_code == 2
    assert result.stderr.strip().splitlines()[-1].startswith("lethegate: ")
    assert not (tmp_path / "r.json").exists()
