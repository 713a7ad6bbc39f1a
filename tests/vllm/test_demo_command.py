"""`make demo`, as a newcomer runs it: it starts, its curl lines work, and Ctrl-C leaves nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
TARGET = json.loads((CHECKOUT / "deploy" / "demo" / "target.json").read_text(encoding="utf-8"))

FACT = re.compile(r"\bKuwait\b", re.IGNORECASE)
LONG = '"stream": true, "ignore_eos": true, "max_tokens": 400'

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1200)]


class Demo:
    """`make demo` in a process group of its own, with what it prints."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.ports = _free_ports(2)
        self.output = ""
        command = ["make", "demo", f"PORT={self.ports[0]}", f"ADMIN_PORT={self.ports[1]}"]
        kept = {k: v for k, v in os.environ.items() if not k.startswith("LETHEGATE_")}
        self.process = subprocess.Popen(
            command,
            cwd=CHECKOUT,
            env={**kept, "LETHEGATE_STATE_DIR": str(state)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, text: str, seconds: float) -> None:
        """Wait until it has printed something."""
        end = time.monotonic() + seconds
        while text not in self.output:
            assert self.process.poll() is None, self.output
            assert time.monotonic() < end, self.output
            time.sleep(0.2)

    def press_ctrl_c(self) -> int:
        """What a terminal does: SIGINT to everything in its foreground group."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(120)

    def close(self) -> None:
        """End it if it still runs, and read its output to the end."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait(120)
        self._reader.join(60)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def curl_lines(self) -> list[str]:
        """The command lines it invites to try, in order."""
        return [line for line in self.output.splitlines() if line.startswith("curl ")]

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line


@pytest.fixture
def demo(demo_model: Path, tmp_path: Path):
    """The demo with a state of its own, so that one that is running is left alone."""
    started = Demo(tmp_path / "state")
    yield started
    started.close()


def test_a_newcomers_first_minutes(demo: Demo) -> None:
    """Ask what is forgotten, ask what is not, look at the target, withdraw it, ask again, leave."""
    demo.wait_for("Ctrl-C stops the server", 600)
    forgotten, retained, shown, withdrawn, registered = demo.curl_lines()

    hidden = _answer(forgotten)
    kept = _answer(retained)
    target = _curl(shown)
    job = _curl(withdrawn)["job"]["id"]
    _until_done(demo, shown, job)
    known = _answer(forgotten)
    _until_done(demo, shown, _curl(registered)["job"]["id"])

    # As a whole word: the question itself says "Al-Kuwaiti".
    assert not FACT.search(hidden)
    assert FACT.search(known)
    assert kept
    assert (target["id"], target["status"]) == (TARGET["id"], "active")
    assert _answer(forgotten) == hidden

    own = _processes_of(demo)
    line = retained.replace('"temperature": 0', f'"temperature": 0, {LONG}').replace("-s", "-sN")
    with subprocess.Popen(["bash", "-c", line], stdout=subprocess.PIPE, text=True) as stream:
        assert stream.stdout is not None
        first = stream.stdout.readline()

        assert len(own) >= 4  # make's demo, the server, the engine, the control process
        assert demo.press_ctrl_c() in (0, 2, 130, -signal.SIGINT)
        # The answer that was being given is given to its end.
        assert first.startswith("data: ")
        rest = stream.stdout.read()
        assert '"finish_reason":"length"' in rest
        assert rest.endswith("data: [DONE]\n\n")
    assert _until(lambda: not (own & _living()))
    assert not any(_is_open(port) for port in demo.ports)


def _curl(line: str) -> dict:
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def _answer(line: str) -> str:
    return _curl(line)["choices"][0]["message"]["content"]


def _until_done(demo: Demo, shown: str, job: str) -> None:
    line = re.sub(r"/admin/v1/targets/\S+", f"/admin/v1/jobs/{job}", shown)
    assert _until(lambda: _curl(line)["state"] == "done")


def _until(condition, seconds: float = 120) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


def _processes_of(demo: Demo) -> set[int]:
    """Everything below `make demo`, whatever session or group it is in."""
    parents = {}
    for pid in _living():
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        except OSError:
            continue
        parents[pid] = int(stat.rpartition(")")[2].split()[1])
    found = {demo.process.pid}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _living() -> set[int]:
    return {int(path.name) for path in Path("/proc").glob("[0-9]*")}


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
