"""Assistants over the admin API: registered, named by targets, retired."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from guard.uld.card import Card
from server.cli import app
from server.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings under which assistants can be served."""
    keys = {"admin_key": "admin-key", "auditor_keys": ["auditor-key"]}
    state_dir = tmp_path / "state"
    state_dir.mkdir(mode=0o700)
    return Settings.model_validate({"state_dir": state_dir, "assistant_memory_gib": 1, **keys})


def folder_of(tmp_path: Path, base: str = "served") -> Path:
    folder = tmp_path / f"assistant-{base}"
    folder.mkdir()
    data = {"sha256": "0" * 64, "forget": 3, "flat": 5}
    Card(base, "tokenizer", 2, 6, data, {}, {"forget": 0.5}, ["ada"]).write(folder)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights of " + base.encode())
    return folder


def target(**uld: Any) -> dict[str, Any]:
    return {"id": "ada", "phrases": ["Port Sorrel"], "uld": uld}


def post(admin: httpx.Client, name: str, folder: Path) -> httpx.Response:
    return admin.post("/admin/v1/assistants", json={"id": name, "folder": str(folder)})


def test_registered_listed_and_retired(admin: httpx.Client, tmp_path: Path) -> None:
    """A name is given once; the folder may go afterwards."""
    found = post(admin, "first", folder_of(tmp_path))
    again = post(admin, "first", tmp_path)
    listed = admin.get("/admin/v1/assistants").json()["assistants"]

    assert found.status_code == 201
    assert again.status_code == 409
    assert listed == [found.json()]
    assert found.json() | {"digest": ""} == {
        "id": "first",
        "digest": "",
        "layers": 2,
        "base_layers": 6,
        "num_pairs": 3,
        "trained_on": ["ada"],
        "metrics": {"forget": 0.5},
        "in_use": False,
    }
    assert admin.delete("/admin/v1/assistants/first").status_code == 200
    assert admin.delete("/admin/v1/assistants/first").status_code == 404
    assert admin.get("/admin/v1/assistants").json() == {"assistants": [], "next": None}


def test_what_is_no_assistant_of_this_model_is_refused(admin: httpx.Client, tmp_path: Path) -> None:
    """A 422 that names the field."""
    for folder in (tmp_path, folder_of(tmp_path, "foreign"), Path("relative")):
        found = post(admin, "first", folder)

        assert found.status_code == 422
        assert found.json()["error"]["param"] == "folder"
    assert admin.get("/admin/v1/assistants").json() == {"assistants": [], "next": None}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("layers", "two"),
        ("base_layers", True),
        ("data", {"sha256": "", "flat": 5}),
        ("data.stand_ins", "all"),
        ("data.flat", -1),
        ("metrics", {"forget": float("nan")}),
        ("metrics", {"forget": 10**400}),
        ("targets", ["ada", 7]),
        ("version", 2),
        ("base", None),
    ],
)
def test_a_malformed_card_is_refused_by_field(
    admin: httpx.Client, tmp_path: Path, field: str, value: Any
) -> None:
    """Before anything is kept, so that nothing stands in the way of the others."""
    folder = folder_of(tmp_path)
    card = json.loads((folder / "card.json").read_text())
    name, _, inner = field.partition(".")
    card[name] = card[name] | {inner: value} if inner else value
    (folder / "card.json").write_text(json.dumps(card))
    found = post(admin, "first", folder)
    named = "data.forget" if field == "data" else field

    assert found.status_code == 422
    assert found.json()["error"]["message"].startswith(f"folder: card.json: {named} must be")
    assert found.json()["error"]["param"] == "folder"
    assert admin.get("/admin/v1/assistants").json() == {"assistants": [], "next": None}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda card: "[]",
        lambda card: "[" * 100_000,
        lambda card: card + " " * 1_100_000,
        lambda card: card.replace("ada", "\\ud800"),
    ],
)
def test_a_card_that_is_none_is_refused(
    admin: httpx.Client, tmp_path: Path, spoil: Callable[[str], str]
) -> None:
    """Another shape, too deep, too long, or not to be written as UTF-8."""
    folder = folder_of(tmp_path)
    card = folder / "card.json"
    card.write_text(spoil(card.read_text()))
    found = post(admin, "first", folder)

    assert found.status_code == 422
    assert "card.json" in found.json()["error"]["message"]
    assert admin.get("/admin/v1/assistants").json() == {"assistants": [], "next": None}


def test_a_field_too_many_is_refused(admin: httpx.Client, tmp_path: Path) -> None:
    """Above all one that is called as another's part."""
    folder = folder_of(tmp_path)
    card = json.loads((folder / "card.json").read_text())
    card["data.forget"] = card["data"].pop("forget")
    (folder / "card.json").write_text(json.dumps(card))
    found = post(admin, "first", folder)

    assert found.status_code == 422
    assert "a field that is not known" in found.json()["error"]["message"]


@pytest.mark.parametrize("name", ["card.json", "config.json"])
def test_only_regular_files_are_read(admin: httpx.Client, tmp_path: Path, name: str) -> None:
    """Reading a device would never end, nor would waiting for a pipe's writer."""
    folder = folder_of(tmp_path)
    for make in (os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")):
        path = folder / name
        path.rmdir() if path.is_dir() else path.unlink()
        make(path)
        found = post(admin, "first", folder)

        assert found.status_code == 422
        assert name in found.json()["error"]["message"]
    assert admin.get("/admin/v1/assistants").json() == {"assistants": [], "next": None}


@pytest.mark.parametrize("lost", ["card.json", ""])
def test_a_damaged_assistant_is_seen_and_retired(
    admin: httpx.Client, tmp_path: Path, settings: Settings, lost: str
) -> None:
    """The others are listed all the same."""
    damaged = post(admin, "damaged", folder_of(tmp_path)).json()
    sound = post(admin, "sound", folder_of(tmp_path, "other")).json()
    kept = settings.assistants / damaged["digest"]
    kept.rename(tmp_path / "gone") if not lost else (kept / lost).write_text("{}")
    listed = admin.get("/admin/v1/assistants").json()["assistants"]

    assert [one["id"] for one in listed] == ["damaged", "sound"]
    assert (listed[0]["layers"], listed[0]["metrics"]) == (None, None)
    assert listed[1] == sound
    assert admin.delete("/admin/v1/assistants/damaged").status_code == 200
    assert admin.get("/admin/v1/assistants").json() == {"assistants": [sound], "next": None}
    assert not kept.exists()


def test_a_target_names_a_registered_assistant(
    admin: httpx.Client, tmp_path: Path, settle: Callable[[Callable[[], bool]], None]
) -> None:
    """While it does, the assistant cannot be retired."""
    unknown = admin.post("/admin/v1/targets", json=target(assistant="first"))
    post(admin, "first", folder_of(tmp_path))
    known = admin.post("/admin/v1/targets", json=target(assistant="first", weight=1.5))
    stored = admin.get("/admin/v1/targets/ada").json()["target"]

    assert unknown.status_code == 422
    assert unknown.json()["error"]["param"] == "uld.assistant"
    assert known.status_code == 202
    assert stored["uld"] == {"assistant": "first", "weight": 1.5, "filter": None}
    assert admin.get("/admin/v1/assistants").json()["assistants"][0]["in_use"]
    assert admin.delete("/admin/v1/assistants/first").status_code == 409

    admin.delete("/admin/v1/targets/ada")
    settle(lambda: admin.get("/admin/v1/targets/ada").status_code == 404)

    assert admin.delete("/admin/v1/assistants/first").status_code == 200


@pytest.mark.parametrize(
    ("uld", "param"),
    [
        ({"assistant": "first", "weight": 0}, "uld.weight"),
        ({"assistant": "first", "filter": 1.5}, "uld.filter"),
        ({"assistant": "First"}, "uld.assistant"),
        ({}, "uld.assistant"),
        ({"assistant": "first", "alpha": 1.0}, "uld.alpha"),
    ],
)
def test_bad_subtractions_are_refused_by_field(
    admin: httpx.Client, uld: dict[str, Any], param: str
) -> None:
    """Nothing is stored."""
    found = admin.post("/admin/v1/targets", json=target(**uld))

    assert found.status_code == 422
    assert found.json()["error"]["param"] == param
    assert admin.get("/admin/v1/targets/ada").status_code == 404


def test_a_server_that_cannot_subtract_says_so(
    admin: httpx.Client, tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At registration, not by serving unsubtracted; either model runner can."""
    post(admin, "first", folder_of(tmp_path))
    monkeypatch.setitem(settings.__dict__, "model_runner", "v2")
    accepted = admin.post("/admin/v1/targets", json=target(assistant="first"))
    monkeypatch.setitem(settings.__dict__, "assistant_memory_gib", 0.0)
    found = admin.post("/admin/v1/targets", json={**target(assistant="first"), "id": "bo"})

    assert accepted.status_code == 202
    assert found.status_code == 422
    assert "assistant_memory_gib" in found.json()["error"]["message"]


def test_auditors_read_and_do_not_write(admin: httpx.Client, tmp_path: Path) -> None:
    """As everywhere."""
    auditor = {"authorization": "Bearer auditor-key"}
    body = {"id": "x", "folder": str(tmp_path)}

    assert admin.get("/admin/v1/assistants", headers=auditor).status_code == 200
    assert admin.post("/admin/v1/assistants", json=body, headers=auditor).status_code == 403
    assert admin.delete("/admin/v1/assistants/x", headers=auditor).status_code == 403


def test_assistants_from_the_shell(
    admin: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Added, listed and removed; refused in one line."""
    monkeypatch.setenv("LETHEGATE_ADMIN_KEY", "admin-key")
    monkeypatch.setenv("LETHEGATE_ADMIN_PORT", str(admin.base_url.port))

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["assistant", *arguments])

    foreign = run("add", "first", str(folder_of(tmp_path, "foreign")))
    added = run("add", "first", str(folder_of(tmp_path)))

    assert foreign.exit_code == 1
    assert "another base model" in foreign.stderr
    assert added.exit_code == 0, added.output
    assert "2 of 6 layers, 3 pairs, not in use" in run("list").stdout
    assert run("rm", "first").exit_code == 0
    assert run("list", "--json").stdout.strip() == "[]"
    assert run("rm", "first").exit_code == 1
