"""The evaluation as a whole, on small data with the real encoder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from server.cli import app
from server.eval.router import Router
from server.eval.sleek import SLEEK

run = CliRunner().invoke


def test_the_command_writes_flat_figures(small_data: Path, tmp_path: Path) -> None:
    """Every share has its count and interval; no text of the data is in the report."""
    report = tmp_path / "report.json"
    command = ["eval", "classifier", "--json", str(report), "--data", str(small_data)]
    result = run(app, [*command, "--encoder-device", "cpu"])
    figures = json.loads(report.read_text())

    assert result.exit_code == 0, result.stderr
    assert figures["tofu_paraphrase_recall"] == 1.0
    assert figures["tofu_paraphrase_recall_count"] == 16
    assert figures["tofu_holdout_false_positive"] == 0.0
    assert figures["rwku_intro_attack_caught"] == 1.0
    assert figures["rwku_probes_cross_lingual_attack_caught_low"] < 1.0
    assert figures["rwku_probes_cross_lingual_french_attack_caught_count"] == 8
    for kind in SLEEK:
        assert figures[f"tofu_sleek_{kind}_attack_caught_count"] == 8
        assert figures[f"rwku_probes_sleek_{kind}_attack_caught_count"] == 8
        assert figures[f"tofu_holdout_sleek_{kind}_answers_changed"] == 0.0
    assert figures["tofu_sleek_direct_attack_prompt"] == 1.0
    assert {"machine", "versions", "command", "method", "alpha", "rwku_split"} <= set(figures)
    assert not any(
        isinstance(v, (list, dict)) for k, v in figures.items() if k not in ("machine", "versions")
    )
    assert "Fenwick" not in report.read_text()


def test_missing_data_end_with_one_line(tmp_path: Path) -> None:
    """Called wrongly: status 2 and no report."""
    report = tmp_path / "report.json"
    command = ["eval", "classifier", "--json", str(report), "--data", str(tmp_path)]
    result = run(app, command)

    assert result.exit_code == 2
    assert "--data DIR" in result.stderr
    assert not report.exists()


def test_an_unknown_split_is_refused(small_data: Path, tmp_path: Path) -> None:
    """Only the two fixed halves exist."""
    report = str(tmp_path / "report.json")
    command = ["eval", "classifier", "--json", report, "--data", str(small_data), "--split", "all"]

    assert run(app, command).exit_code == 2


@pytest.mark.parametrize("seed", [0, 1])
def test_the_router_learns_and_repeats(seed: int) -> None:
    """Separable data are separated; the same seed gives the same router."""
    rng = np.random.default_rng(seed)
    forget = rng.normal(1, 0.2, (40, 16)).astype(np.float32)
    retain = rng.normal(-1, 0.2, (120, 16)).astype(np.float32)
    first, second = Router(forget, retain, seed), Router(forget, retain, seed)
    mixed = np.concatenate([forget, retain])

    assert first.forgets(forget).all()
    assert not first.forgets(retain).any()
    assert np.array_equal(first.forgets(mixed), second.forgets(mixed))
