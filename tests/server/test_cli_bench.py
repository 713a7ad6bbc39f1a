"""`lethegate bench` on the command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGTERM, getsignal, signal
from typing import Any

import pytest
from rich.progress import Progress
from typer.testing import CliRunner

from server.bench import inputs, serving
from server.bench.errors import ArmInvalid
from server.cli import app

run = CliRunner().invoke


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """The commands take over signals of their process, which is ours here."""
    before = {number: getsignal(number) for number in (SIGINT, SIGTERM, SIGHUP)}
    yield
    for number, handler in before.items():
        signal(number, handler)


class TestServing:
    def test_writes_and_shows_the_figures(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Flags it does not know reach both servers."""
        plans: list[serving.ServingPlan] = []

        def bench(plan: serving.ServingPlan, _progress: Progress) -> dict[str, Any]:
            plans.append(plan)
            return {"x": 0.5, "x_min": 0.25, "x_max": 0.75, "rounds": 3, "method": "by hand"}

        monkeypatch.setattr(serving, "bench_serving", bench)
        path = tmp_path / "report.json"
        command = ["bench", "serving", "--json", str(path), "--model", "m", "--dtype", "float32"]
        result = run(app, command)

        assert result.exit_code == 0
        assert "0.75" in result.stdout
        assert '"x_max": 0.75' in path.read_text()
        assert list(plans[0].flags[:2]) == ["--dtype", "float32"]

    def test_an_invalid_arm_fails_without_a_report(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One line, after what the servers' logs said."""

        def bench(_plan: serving.ServingPlan, _progress: Progress) -> dict[str, Any]:
            error = ArmInvalid("unmatched_plain: 1 of 9 failed: status 500")
            error.add_note("the log ends with: boom")
            raise error

        monkeypatch.setattr(serving, "bench_serving", bench)
        path = tmp_path / "report.json"
        result = run(app, ["bench", "serving", "--json", str(path), "--model", "m"])

        assert result.exit_code == 1
        assert result.stderr.splitlines()[-1] == (
            "lethegate: unmatched_plain: 1 of 9 failed: status 500"
        )
        assert "boom" in result.stderr
        assert not path.exists()


class TestRegistration:
    def test_a_missing_model_is_a_usage_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Told at once."""
        monkeypatch.setattr(inputs, "_DEMO_MODEL", tmp_path / "nowhere")
        result = run(app, ["bench", "registration", "--json", str(tmp_path / "report.json")])

        assert result.exit_code == 2
        assert "--model" in result.stderr

    def test_fewer_than_three_repetitions_are_refused(self, tmp_path: Path) -> None:
        """A median of two is no median."""
        command = ["bench", "registration", "--json", str(tmp_path / "r.json")]
        result = run(app, [*command, "--repetitions", "2"])

        assert result.exit_code == 2


class TestDevice:
    def test_without_a_gpu_it_says_so(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In one line, and without a report."""
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        path = tmp_path / "report.json"
        result = run(app, ["bench", "device", "--json", str(path)])

        assert result.exit_code == 1
        assert result.stderr.splitlines()[-1].startswith("lethegate: there is no CUDA device here")
        assert not path.exists()
