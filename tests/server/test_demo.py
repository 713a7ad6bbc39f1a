"""The demo's own part: where it keeps things, what it refuses, what it prints, how it ends."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from server import demo
from server.errors import StartFault
from server.settings_sources import load_settings


@pytest.fixture
def model(tmp_path, monkeypatch):
    folder = tmp_path / "demo-model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    monkeypatch.setattr(demo, "MODEL", folder)
    return folder


def settings_for(tmp_path, **more):
    return load_settings({"state_dir": tmp_path, **more}, env={})


def test_the_state_is_kept_in_the_checkout(model):
    """Nothing is written into the user's home; an empty variable counts as absent."""
    settings = demo.demo_settings({"LETHEGATE_PORT": ""})

    assert settings.state_dir == demo.CHECKOUT / ".state" / "demo"
    assert settings.port == 8000


def test_the_environment_may_choose_another_place(model, tmp_path):
    """LETHEGATE_* settings hold for the demo too."""
    settings = demo.demo_settings({"LETHEGATE_STATE_DIR": str(tmp_path), "LETHEGATE_PORT": "8123"})

    assert settings.state_dir == tmp_path
    assert settings.port == 8123


def test_a_missing_model_is_named(model):
    """The message says which command makes it."""
    (model / "config.json").unlink()

    with pytest.raises(StartFault, match="make model"):
        demo.demo_settings({})


@pytest.mark.parametrize("name", ["port", "admin_port"])
def test_a_port_in_use_is_named(tmp_path, name):
    """The message says which port it is and how to choose another."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        ports = {"port": 0, "admin_port": 0, name: port}

        with pytest.raises(StartFault, match=f"127.0.0.1:{port} .*make demo {name.upper()}="):
            demo.check_ports(settings_for(tmp_path, **ports))


def test_the_printed_lines_are_shell_words_around_json(tmp_path):
    """Each curl line can be pasted; the key itself is not in them."""
    text = demo.invitation(settings_for(tmp_path / "a folder"))
    lines = [shlex.split(line) for line in text.splitlines() if line.startswith("curl ")]
    bodies = [json.loads(words[words.index("-d") + 1]) for words in lines if "-d" in words]

    assert len(lines) == 5
    assert [body["messages"][0]["content"] for body in bodies] == [demo.FORGOTTEN, demo.RETAINED]
    assert all(body["model"] == demo.SERVED_NAME for body in bodies)


def test_the_printed_questions_are_what_they_say():
    """One is registered to be forgotten, the other is registered nowhere."""
    target = json.loads(demo.TARGET.read_text(encoding="utf-8"))
    registered = {example["prompt"] for example in target["examples"]}

    assert demo.FORGOTTEN in registered
    assert demo.RETAINED not in registered | set(target["retain_examples"])


def test_ending_the_server_ends_its_whole_group(monkeypatch):
    """Neither a server that will not stop nor its children stay behind."""
    monkeypatch.setattr(demo, "_STOP_SECONDS", 0.2)
    script = "trap '' TERM; sleep 300 & echo $!; wait; sleep 300"
    with subprocess.Popen(
        ["/bin/sh", "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as server:
        child = int(server.stdout.readline())
        demo.end(server)

    assert server.returncode == -9
    assert is_gone(child)


def test_a_server_that_loses_the_demo_is_told_to_stop():
    """Not even kill -9 of the demo leaves a server."""
    if sys.platform != "linux":
        pytest.skip("the kernel's parent-death signal is Linux's")
    code = (
        "import subprocess, time; from server import demo;"
        "p = subprocess.Popen(['sleep', '300'], preexec_fn=demo._end_with_parent);"
        "print(p.pid, flush=True); time.sleep(300)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as parent:
        child = int(parent.stdout.readline())
        parent.kill()

    assert is_gone(child)


class FakeAdmin:
    """Answers with one status after the other."""

    def __init__(self, *statuses):
        self.statuses = list(statuses)

    def targets(self):
        status = self.statuses.pop(0)
        return iter([] if status is None else [{"id": "x", "status": status}])


@pytest.mark.parametrize(
    ("statuses", "settled"),
    [
        ((None,), None),
        (("active",), "active"),
        (("compiling", "active"), "active"),
        (("withdrawn", "withdrawn", None), None),
        (("pending", "failed"), "failed"),
    ],
)
def test_a_target_on_its_way_is_waited_for(monkeypatch, statuses, settled):
    """A run that was cut short leaves a target whose job goes on in the next."""
    monkeypatch.setattr(demo, "_POLL_SECONDS", 0)

    assert demo.settled_status(FakeAdmin(*statuses), "x") == settled


def is_gone(pid):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
            if state == "Z":
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.05)
    return False
