"""The stranger's path finds its way in the documents, begins with nothing, and fails clearly."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.scripts import load_script

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def stranger(monkeypatch):
    """The script as a module, with its folder on the path as Python puts it there."""
    monkeypatch.syspath_prepend(str(CHECKOUT / "deploy"))
    yield load_script(CHECKOUT / "deploy" / "stranger.py")
    sys.modules.pop("shells", None)


@pytest.fixture
def place(stranger, tmp_path):
    """A place whose clone is an empty folder."""
    made = stranger.Place(tmp_path / "path")
    made.clone.mkdir()
    return made


def test_the_documents_have_what_is_followed(stranger):
    """Each block that the path looks for, with the demo's model where a request names one."""
    target = stranger.sessions(CHECKOUT / stranger.FIRST_TARGET)
    watching = stranger.sessions(CHECKOUT / stranger.WATCHING)

    for texts, part in (
        (target, "make setup"),
        (target, f"serve {stranger.MODEL}"),
        (target, "/admin/v1/targets "),
        (target, "lethegate check"),
        (watching, "prometheus --config"),
    ):
        assert stranger.block(texts, part)
    assert stranger.HUB_NAME not in stranger.block(target, "/admin/v1/targets ")
    assert stranger.block(target, "make setup").splitlines()[-1].startswith(". .venv/bin/activate")
    with pytest.raises(stranger.Failed, match="no block"):
        stranger.block(target, "no such command")


def test_caches_and_settings_begin_empty(place, monkeypatch):
    """Nothing of whoever starts it but where things come from; an active environment is left."""
    for name in ("LETHEGATE_PORT", "PYTHONPATH", "HF_HOME", "XDG_STATE_HOME", "UV_CACHE_DIR"):
        monkeypatch.setenv(name, "there")
    monkeypatch.setenv("PIP_CACHE_DIR", "there")
    monkeypatch.setenv("PIP_FIND_LINKS", "/wheels")
    monkeypatch.setenv("VIRTUAL_ENV", "/own/.venv")
    monkeypatch.setenv("PATH", f"/own/.venv/bin:{os.environ['PATH']}")
    found = place.environment()

    assert "there" not in found.values()
    assert found["PIP_FIND_LINKS"] == "/wheels"
    assert "/own/.venv" not in found["PATH"]
    assert found["HOME"] == str(place.home)
    assert place.shell("echo ~").strip() == str(place.home)


def test_commands_that_fail_say_what_they_printed(stranger, place):
    """Their status, the end of what they printed, and where all of it is."""
    with pytest.raises(stranger.Failed, match=r"(?s)status 3.*what happened.*01\.\*"):
        place.shell("echo what happened >&2; exit 3")
    with pytest.raises(stranger.Failed, match="not done in 0 s"):
        place.shell("sleep 60", seconds=0.1)
    with (
        pytest.raises(stranger.Failed, match=r"(?s)ended with status 4.*gone"),
        place.running("echo gone; exit 4") as printed,
    ):
        stranger.wait_until(lambda: False, printed)


def test_what_runs_is_ended_as_by_ctrl_c(stranger, place):
    """Each command has a log of its own, also where one runs beside another."""
    waiting = "trap 'echo ended; exit' INT; echo listens; while :; do sleep 0.1 || :; done"
    with place.running(waiting) as first:
        stranger.wait_until(lambda: "listens" in first(), first)
        with place.running("echo beside; sleep 60") as beside:
            stranger.wait_until(lambda: "beside" in beside(), beside)
        assert "beside" not in (place.logs / "01.log").read_text()

    assert "ended" in (place.logs / "01.log").read_text()


@pytest.mark.parametrize("problem", ["folder", "port", "tool", "report", "space"])
def test_what_would_stop_it_later_stops_it_at_once(stranger, tmp_path, monkeypatch, problem):
    """Before anything is cloned; with a sentence, and in the report where one can be written."""
    monkeypatch.setattr(stranger, "PORTS", ())
    monkeypatch.setattr(stranger, "TOOLS", ("git",))
    folder, report = tmp_path / "new", tmp_path / "times.json"
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        if problem == "folder":
            folder.mkdir()
        elif problem == "port":
            monkeypatch.setattr(stranger, "PORTS", (listener.getsockname()[1],))
        elif problem == "tool":
            monkeypatch.setattr(stranger, "TOOLS", ("git", "no-such-tool"))
        elif problem == "report":
            report = tmp_path / "none" / "times.json"
        else:
            monkeypatch.setattr(stranger, "FREE_GIB", 10**9)
        monkeypatch.setattr(sys, "argv", ["stranger.py", str(folder), "--json", str(report)])

        assert stranger.main() == 1

    assert problem == "folder" or not folder.exists()
    if problem != "report":
        told = json.loads(report.read_text())
        assert told["failed"]
        assert told["steps"] == {}


def test_steps_have_their_own_seconds(stranger, monkeypatch, capsys):
    """And what is printed says when they were reached."""
    times = iter([100.0, 107.5, 110.0])
    monkeypatch.setattr(stranger, "time", SimpleNamespace(monotonic=lambda: next(times)))
    clock = stranger.Clock()
    clock.reached("one")
    clock.reached("two")

    assert clock.steps == {"one": 7.5, "two": 2.5}
    assert clock.total() == 10.0
    assert "10.0 s  two (+2.5 s)" in capsys.readouterr().out


def test_no_answer_is_told_from_an_answer(stranger):
    """An error's body is no chat completion."""
    assert stranger.answer('{"choices": [{"message": {"content": "yes"}}]}') == "yes"
    for text in ("", '{"error": {}}', "[]"):
        with pytest.raises(stranger.Failed, match="no chat completion"):
            stranger.answer(text)
