"""The audit of acts over the admin API."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from server.audit.files import paths
from server.audit.writer import AuditWriter
from server.cli import app
from server.errors import AuditUnavailable
from server.settings import Settings

AUDIT = "/admin/v1/audit"
SECRET = "Port Sorrel"


def _acts(admin: httpx.Client, settle: Callable[[Callable[[], bool]], None], count: int) -> Any:
    def read() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = admin.get(AUDIT, params={"event": "admin"}).json()["records"]
        return found

    settle(lambda: len(read()) >= count)
    return list(reversed(read()))


def test_every_act_is_there(
    admin: httpx.Client, settle: Callable[[Callable[[], bool]], None]
) -> None:
    """Changes, whether they worked or not, and reads of forget text; no lists, no strangers."""
    target = {"id": "ada", "phrases": [SECRET]}
    admin.post("/admin/v1/targets", json=target)
    admin.post("/admin/v1/targets", json=target)
    admin.get("/admin/v1/targets/ada")
    admin.get("/admin/v1/targets")
    made = admin.post("/admin/v1/keys", json={"name": SECRET, "role": "auditor"}).json()
    auditor = {"authorization": f"Bearer {made['key']}"}
    admin.delete("/admin/v1/targets/ada", headers=auditor)
    admin.delete("/admin/v1/targets/ada", headers={"authorization": "Bearer no"})
    admin.delete(f"/admin/v1/targets/{SECRET}")
    acts = _acts(admin, settle, 6)

    assert [(a["method"], a["path"], a["status"]) for a in acts] == [
        ("POST", "/admin/v1/targets", 202),
        ("POST", "/admin/v1/targets", 409),
        ("GET", "/admin/v1/targets/ada", 200),
        ("POST", "/admin/v1/keys", 201),
        ("DELETE", "/admin/v1/targets/ada", 403),
        ("DELETE", "/admin/v1/targets/?", 404),
    ]
    assert [a["key"] for a in acts] == ["settings-admin-1"] * 4 + [made["id"], "settings-admin-1"]
    assert SECRET not in json.dumps(acts)
    assert admin.get(AUDIT, headers=auditor).status_code == 200
    stranger = {"authorization": "Bearer client-key"}
    assert admin.get(AUDIT, headers=stranger).status_code == 403


def test_pages(admin: httpx.Client, settle: Callable[[Callable[[], bool]], None]) -> None:
    """`next` leads through all of them."""
    for number in range(5):
        admin.delete(f"/admin/v1/targets/n{number}")
    _acts(admin, settle, 5)
    found, before = [], {}
    while True:
        page = admin.get(AUDIT, params={"limit": "2", **before}).json()
        found += [record["sequence"] for record in page["records"]]
        if page["next"] is None:
            break
        before = {"before": page["next"]}

    assert found == [5, 4, 3, 2, 1]
    assert admin.get(AUDIT, params={"event": "secret"}).status_code == 422


def test_no_change_without_a_record(admin: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the audit cannot be written, what would change something is a 503; reading goes on."""

    def fail(self: AuditWriter) -> None:
        raise AuditUnavailable

    monkeypatch.setattr(AuditWriter, "check", fail)
    answer = admin.post("/admin/v1/targets", json={"id": "ada", "phrases": [SECRET]})

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "audit_unavailable")
    assert admin.get("/admin/v1/targets").json()["targets"] == []


def test_from_the_shell(
    admin: httpx.Client,
    settle: Callable[[Callable[[], bool]], None],
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A whole audit is told with its head; a changed one fails; the newest are printed."""
    monkeypatch.setenv("LETHEGATE_STATE_DIR", str(settings.state_dir))
    for number in range(3):
        admin.delete(f"/admin/v1/targets/n{number}")
    _acts(admin, settle, 3)

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["audit", *arguments])

    whole = run("verify")
    head = whole.stdout.split()[-1]
    tail = [json.loads(line) for line in run("tail", "-n", "2").stdout.splitlines()]
    assert whole.exit_code == 0
    assert [record["sequence"] for record in tail] == [2, 3]
    assert run("verify", "--head", head).exit_code == 0
    assert run("verify", "--head", "0" * 64).exit_code == 1
    [path] = paths(settings.audit)
    path.write_bytes(path.read_bytes().replace(b"404", b"200"))
    changed = run("verify")
    assert changed.exit_code == 1
    assert "line 1 of audit-0000000000000001.jsonl" in changed.stderr
