"""`make demo`, as a newcomer runs it: it starts, its curl lines work, and Ctrl-C leaves nothing.

In between, on the same server, everything that the documents say to type: see `docs/blocks.py`.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import httpx
import pytest

from server.bench.servers import free_ports

CHECKOUT = Path(__file__).resolve().parents[2]
TARGET = json.loads((CHECKOUT / "deploy" / "demo" / "target.json").read_text(encoding="utf-8"))

# Of the pages with commands, the one about keys has a server of its own: tests/server/control.
DOCUMENTS = [
    path
    for folder in ("", "docs/pages", "deploy")
    for path in sorted((CHECKOUT / folder).rglob("*.md") if folder else [CHECKOUT / "README.md"])
    if re.search(r"^```(sh|python)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    and path.name != "keys.md"
]

FACT = re.compile(r"\bKuwait\b", re.IGNORECASE)
LONG = '"stream": true, "ignore_eos": true, "max_tokens": 400'

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1200)]


class Demo:
    """`make demo` in a process group of its own, with what it prints."""

    def __init__(self, state: Path) -> None:
        self.state, self.indexes = state, state.with_name("indexes")
        self.ports = free_ports(2)
        self.output = ""
        command = ["make", "demo", f"PORT={self.ports[0]}", f"ADMIN_PORT={self.ports[1]}"]
        kept = {k: v for k, v in os.environ.items() if not k.startswith("LETHEGATE_")}
        self.process = subprocess.Popen(
            command,
            cwd=CHECKOUT,
            env={
                **kept,
                "LETHEGATE_STATE_DIR": str(state),
                "LETHEGATE_INDEX_DIR": str(self.indexes),
            },
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


@pytest.fixture(scope="module")
def demo(demo_model: Path, tmp_path_factory: pytest.TempPathFactory):
    """The demo with a state of its own, so that one that is running is left alone."""
    started = Demo(tmp_path_factory.mktemp("demo") / "state")
    try:
        started.wait_for("Ctrl-C stops the server", 600)
        yield started
    finally:
        started.close()


@pytest.fixture
def admin(demo: Demo):
    """The admin API; what a test registers is withdrawn at its end."""
    headers = {"authorization": f"Bearer {(demo.state / 'admin.key').read_text().strip()}"}
    url = f"http://127.0.0.1:{demo.ports[1]}/admin/v1"
    with httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False) as http:
        yield http
        left = [f"/corpora/{c['id']}" for c in http.get("/corpora").json()["corpora"]]
        left += [f"/targets/{t['id']}" for t in http.get("/targets").json()["targets"]]
        jobs = [http.delete(path) for path in left if not path.endswith(f"/{TARGET['id']}")]
        for answer in jobs:
            job = f"/jobs/{answer.json()['job']['id']}"
            assert _until(lambda job=job: http.get(job).json()["state"] == "done")


def test_a_newcomers_first_minutes(demo: Demo) -> None:
    """Ask what is forgotten, ask what is not, look at the target, withdraw it, ask again."""
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


def _files(folder: Path) -> None:
    """The documents that a page speaks of, each with a text of its own, and an answer."""
    folder.mkdir()
    (folder / "answer.txt").write_text("Of keeper 21 and 3 copper kettles in the fog.")
    for name in ("papers", "licences", "texts", "chapters", "quotations"):
        (folder / name).mkdir()
        for number in range(10):
            text = f"The {name} of keeper {number * 7} tell of {number} copper kettles in the fog."
            (folder / name / f"{number}.txt").write_text(text, encoding="utf-8")
    notes = "".join(
        json.dumps({"text": f"Note {n} of {n * n} about owls."}) + "\n" for n in range(9)
    )
    (folder / "notes.jsonl.gz").write_bytes(gzip.compress(notes.encode()))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_what_the_documents_say_to_type(
    demo: Demo, admin: httpx.Client, run_document, tmp_path: Path, document: Path
) -> None:
    """Every command of a page, in order, in one shell: each does what it is said to do."""
    state = tmp_path / ".local" / "state" / "lethegate"
    state.parent.mkdir(parents=True)
    state.symlink_to(demo.state)
    _files(tmp_path / "work")
    replaced = {
        "127.0.0.1:8000": f"127.0.0.1:{demo.ports[0]}",
        "127.0.0.1:8001": f"127.0.0.1:{demo.ports[1]}",
        "Qwen/Qwen3-0.6B": "demo",
        "/etc/lethegate": str(tmp_path / "etc"),
        # The whole suite is run against both engines in test_attack.py.
        "lethegate attack ": "lethegate attack --limit 8 ",
        # On one machine; on a cluster of Ray's in tests/tracing.
        "--ray auto": "",
        "/shared/index": str(demo.indexes / "index"),
        "/shared/texts": "texts",
    }
    key = admin.headers["authorization"].removeprefix("Bearer ")
    ports = dict(zip(("LETHEGATE_PORT", "LETHEGATE_ADMIN_PORT"), map(str, demo.ports), strict=True))
    (tmp_path / "etc").mkdir()
    done = run_document(document, replaced, {"KEY": key, **ports})

    assert done.returncode == 0, done.stderr[-3000:]


def test_ctrl_c_leaves_nothing(demo: Demo) -> None:
    """The answer that is being given is given to its end; then every process is gone."""
    retained = demo.curl_lines()[1]
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


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
