"""`lethegate keys`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from detectors.targets import Enforcement
from guard.key_scope import KeyScope
from server.auth import KeyRing
from server.cli import app
from server.keys.limits import Limits

KEYS = "/admin/v1/keys"
Opens = Callable[[KeyRing, str], bool]


def test_keys_from_the_shell(
    admin: httpx.Client, ring: KeyRing, monkeypatch: pytest.MonkeyPatch, opens: Opens
) -> None:
    """A key is made, listed, rotated and revoked; only keys are on standard output."""
    monkeypatch.setenv("LETHEGATE_ADMIN_KEY", "admin-key")
    monkeypatch.setenv("LETHEGATE_ADMIN_PORT", str(admin.base_url.port))

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["keys", *arguments])

    key = run("add", "alice", "--days", "30").stdout.strip()
    assert opens(ring, key)
    [listed] = json.loads(run("list", "--json").stdout)
    assert listed["name"] == "alice"
    assert key[:9] in run("list").stdout
    rotated = run("rotate", listed["id"], "--grace", "0").stdout.strip()
    assert (opens(ring, key), opens(ring, rotated)) == (False, True)
    assert "revoked" in run("rm", listed["id"]).stdout
    assert not opens(ring, rotated)
    assert run("rm", listed["id"]).exit_code == 1
    assert run("add", "alice", "--role", "root").exit_code == 1


def test_a_key_is_changed_from_the_shell(
    admin: httpx.Client, ring: KeyRing, monkeypatch: pytest.MonkeyPatch, opens: Opens
) -> None:
    """Disabled it opens nothing, and it goes on with the same secret; what is unknown fails."""
    monkeypatch.setenv("LETHEGATE_ADMIN_KEY", "admin-key")
    monkeypatch.setenv("LETHEGATE_ADMIN_PORT", str(admin.base_url.port))
    key = CliRunner().invoke(app, ["keys", "add", "alice"]).stdout.strip()
    [made] = admin.get(KEYS).json()["keys"]

    def patch(change: str) -> Any:
        return CliRunner().invoke(app, ["keys", "patch", made["id"], "-"], input=change)

    assert f"{made['id']}: disabled" in patch('{"disabled": true}').stdout
    assert not opens(ring, key)
    assert f"{made['id']}: active" in patch('{"disabled": false}').stdout
    assert opens(ring, key)
    assert (patch('{"rights": "all"}').exit_code, patch("{").exit_code) == (1, 1)


def test_a_keys_assistants_from_the_shell(
    admin: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left out is the targets'; a weight beyond the operator's bounds makes no key."""
    monkeypatch.setenv("LETHEGATE_ADMIN_KEY", "admin-key")
    monkeypatch.setenv("LETHEGATE_ADMIN_PORT", str(admin.base_url.port))

    def add(*arguments: str) -> Any:
        result = CliRunner().invoke(app, ["keys", "add", "alice", "--json", *arguments])
        return json.loads(result.stdout)["uld"] if result.exit_code == 0 else result.exit_code

    assert add("--uld-weight", "1.5", "--uld-filter", "0.02") == {"weight": 1.5, "filter": 0.02}
    assert add("--uld-weight", "2") == {"weight": 2.0, "filter": None}
    assert add("--uld-filter", "0.1") == {"weight": None, "filter": 0.1}
    assert add() is None
    assert (add("--uld-weight", "11"), add("--uld-weight", "0"), add("--uld-filter", "2")) == (
        1,
        1,
        1,
    )
    assert len(admin.get(KEYS).json()["keys"]) == 4


def test_scopes_and_limits_from_the_shell(
    admin: httpx.Client, ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every flag of `keys add` reaches the gateways."""
    monkeypatch.setenv("LETHEGATE_ADMIN_KEY", "admin-key")
    monkeypatch.setenv("LETHEGATE_ADMIN_PORT", str(admin.base_url.port))
    flags = ["--label", "law=gdpr", "--observe", "--rpm", "6", "--tpm", "70", "--at-once", "8"]
    key = CliRunner().invoke(app, ["keys", "add", "bob", *flags]).stdout.strip()
    caller = ring.admit(f"Bearer {key}")

    labels = frozenset({("law", "gdpr")})
    assert caller.scope == KeyScope(labels=labels, enforcement=Enforcement.OBSERVE)
    assert caller.limits == Limits(6, 70, 8)
    assert CliRunner().invoke(app, ["keys", "add", "bob", "--label", "law"]).exit_code == 2
