"""The command line, against a real admin API where it calls one."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from server.cli import app
from server.control import own_directory
from server.settings import Settings


@pytest.fixture
def run(admin: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run a command against the admin API."""
    monkeypatch.setenv("LETHEGATE_ADMIN_KEY", "admin-key")
    monkeypatch.setenv("LETHEGATE_ADMIN_PORT", str(admin.base_url.port))

    def invoke(*arguments: str, given: str | None = None) -> Result:
        return CliRunner().invoke(app, list(arguments), input=given)

    return invoke


def test_targets_from_the_shell(run: Callable[..., Result], tmp_path: Path) -> None:
    """A target is added, listed, shown and removed."""
    file = tmp_path / "ada.json"
    file.write_text('{"id": "ada", "phrases": ["Port Sorrel"]}')
    added = run("targets", "add", str(file), "--wait")
    listed = run("targets", "list", "--json")
    table = run("targets", "list")
    shown = run("targets", "show", "ada")
    removed = run("targets", "rm", "ada", "--json")
    job = json.loads(removed.stdout)["job"]
    waited = run("jobs", "wait", job["id"])

    assert added.exit_code == 0, added.output
    assert "in force with generation" in added.stdout
    assert [target["status"] for target in json.loads(listed.stdout)] == ["active"]
    assert "ada" in table.stdout
    assert json.loads(shown.stdout)["target"]["phrases"][0]["text"] == "Port Sorrel"
    assert waited.exit_code == 0
    assert json.loads(run("targets", "list", "--json").stdout) == []
    assert json.loads(run("jobs", "list", "--json").stdout)[0]["kind"] == "withdraw"
    assert "withdraw" in run("jobs", "list").stdout


def test_failures_are_one_line_and_a_status(run: Callable[..., Result]) -> None:
    """What the API refuses is one line on standard error and status 1."""
    refused = run("targets", "add", "-", given='{"id": "NO", "phrases": ["x"]}')
    absent = run("targets", "show", "no/body")
    unreadable = run("targets", "add", "/nowhere.json")
    given = '{"id": "bad", "phrases": ["x"], "labels": {"fail": "compile"}}'
    failed = run("targets", "add", "-", "--wait", given=given)

    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)
    assert "id:" in refused.stderr
    assert "invalid_field" in refused.stderr
    assert (absent.exit_code, "not_found" in absent.stderr) == (1, True)
    assert unreadable.exit_code == 2
    assert failed.exit_code == 1
    assert "failed" in failed.stderr


def test_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a server the command says where it looked."""
    monkeypatch.setenv("LETHEGATE_ADMIN_KEY", "admin-key")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    result = CliRunner().invoke(app, ["targets", "list", "--admin-port", str(port)])

    assert result.exit_code == 1
    assert f"127.0.0.1:{port}" in result.stderr


def test_bad_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad setting is status 2 and names its variable."""
    monkeypatch.setenv("LETHEGATE_PORT", "many")
    result = CliRunner().invoke(app, ["targets", "list"])

    assert result.exit_code == 2
    assert "LETHEGATE_PORT" in result.stderr


def test_serve_passes_the_rest_to_vllm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Our flags become settings, everything else goes to vLLM in order."""
    calls: list[tuple[Settings, str, list[str]]] = []
    launch = ModuleType("server.launch")
    launch.serve = lambda *call: calls.append(call) or 3  # type: ignore[attr-defined,func-returns-value]
    monkeypatch.setitem(sys.modules, "server.launch", launch)
    arguments = "serve ./model --max-model-len 512 --port 9000 -tp 2 --fail-open --dtype=float32"
    given = [*arguments.split(), "--state-dir", str(tmp_path), "--", "--config", "vllm.yaml"]
    result = CliRunner().invoke(app, given)

    assert result.exit_code == 3, result.output
    ((settings, model, rest),) = calls
    assert (model, settings.port, settings.fail_open) == ("./model", 9000, True)
    expected = "--max-model-len 512 -tp 2 --dtype=float32 --config vllm.yaml"
    assert " ".join(rest) == expected


def test_serve_wants_the_model_first() -> None:
    """A vLLM flag before the model would be taken for it, so it is refused."""
    result = CliRunner().invoke(app, ["serve", "--max-model-len", "512", "model"])

    assert result.exit_code == 2
    assert "MODEL comes first" in result.stderr


def test_version() -> None:
    """The version is printed."""
    result = CliRunner().invoke(app, ["version"])

    assert result.stdout.startswith("lethegate 0.")


def test_secrets_have_no_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys cannot be given where process lists would show them."""
    result: Any = CliRunner().invoke(app, ["control", "--help"])

    assert "--admin-port" in result.stdout
    assert "--admin-key" not in result.stdout


def test_port_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control process says which address it cannot have."""
    own_directory(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        arguments = ["control", "--model", "m", "--state-dir", str(tmp_path)]
        result = CliRunner().invoke(app, [*arguments, "--admin-port", str(port)])

    assert result.exit_code == 1
    assert f"cannot listen on 127.0.0.1:{port}" in result.stderr
