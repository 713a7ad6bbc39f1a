"""`lethegate nodes`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from server.cli import app

Settle = Callable[[Callable[[], bool]], None]


def test_nodes_from_a_shell(
    admin: httpx.Client, node: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, settle: Settle
) -> None:
    """Listed, fenced until it says that it refuses, let out again, and forgotten."""
    monkeypatch.setenv("LETHEGATE_ADMIN_KEY", "admin-key")
    monkeypatch.setenv("LETHEGATE_ADMIN_PORT", str(admin.base_url.port))

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["nodes", *arguments])

    one = node()
    one.start()
    settle(one.gate.may_serve)
    assert "current" in run("list").stdout
    assert run("fence", "a").stdout == "a: fenced, refuses\n"
    assert not one.gate.may_serve()
    assert run("forget", "a").exit_code == 1
    assert json.loads(run("unfence", "a", "--json").stdout)["state"] == "current"
    settle(one.gate.may_serve)
    one.stop()
    assert json.loads(run("list", "--json").stdout)[0]["state"] == "left"
    silent = run("fence", "a", "--wait", "0.1")
    assert (
        "it may be cut off" in silent.output
        or json.loads(run("list", "--json").stdout)[0]["refuses"]
    )
    assert run("unfence", "a").exit_code == run("forget", "a").exit_code == 0
    assert run("forget", "a").exit_code == 1
