"""The control process as a process: signals, locks and kill -9."""

from __future__ import annotations

import json
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from guard.follower import Active, Follower
from guard.snapshot import load_snapshot
from server.control import _asked_by_console, _only_one
from server.errors import ControlRunning, SettingsError
from server.log import configure_logging
from server.settings_sources import load_settings
from server.state_dir import own_directory

QUICK = Path(__file__).with_name("fake_control.py")
REAL = Path(__file__).with_name("real_control.py")
# The class is in conftest.py, which no test can import.
ControlProcess = Any


def test_sigterm_drains(control: ControlProcess) -> None:
    """SIGTERM ends the process with status 0, and a restart keeps the generation."""
    control.start()
    control.until(control.ready)
    for _ in range(2):
        process = control.start() if control.process is None else control.process
        control.until(control.ready)
        generation = control.http.get("/generation").json()["generation"]
        console = httpx.get(f"http://127.0.0.1:{control.port}/console/login", trust_env=False)
        process.send_signal(signal.SIGTERM)

        assert process.wait() == 0
        assert generation == 1
        assert "Log in" in console.text
        control.process = None


def test_only_one_per_state_directory(control: ControlProcess) -> None:
    """A second control process on the same state directory does not start."""
    control.start()
    control.until(control.ready)
    assert control.process is not None

    with (
        pytest.raises(ControlRunning, match=f"pid {control.process.pid}"),
        _only_one(control.state_dir),
    ):
        pass


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ({}, "http://127.0.0.1:8000"),
        ({"CONSOLE": "false"}, None),
        ({"CONSOLE_ENDPOINT_URL": "https://models.example:8443"}, "https://models.example:8443"),
    ],
)
def test_what_the_console_asks(given: dict[str, str], asked: str | None) -> None:
    """The endpoint of this machine, unless another one is named; a URL with a path is none."""
    env = {f"LETHEGATE_{name}": value for name, value in given.items()}

    assert _asked_by_console(load_settings(env=env)) == asked
    with pytest.raises(SettingsError, match="CONSOLE_ENDPOINT_URL"):
        load_settings(env={"LETHEGATE_CONSOLE_ENDPOINT_URL": "https://user@models.example/v1"})


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("http://models.example:8000", True),
        ("https://models.example", False),
        ("http://127.0.0.1:9000", False),
    ],
)
def test_clear_text_of_the_playground_is_warned_of(
    url: str, warned: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    """At the start, where a client's key would go unencrypted over a network."""
    configure_logging("info")
    _asked_by_console(load_settings(env={"LETHEGATE_CONSOLE_ENDPOINT_URL": url}))

    assert ("of_the_playground_travel_without_tls" in capfd.readouterr().err) is warned


def test_loose_permissions_are_tightened(tmp_path: Path) -> None:
    """A state directory that others could enter is closed to them."""
    tmp_path.chmod(0o755)
    own_directory(tmp_path)

    assert tmp_path.stat().st_mode & 0o777 == 0o700


class Watcher:
    """A follower that checks every policy it is given for completeness."""

    def __init__(self, state_dir: Path, read: Callable[[Path, str], set[str]]) -> None:
        self._snapshots = state_dir / "snapshots"
        self._read = read
        self.generations: list[int] = []
        self.follower = Follower(state_dir, "worker", self._load)
        self.follower.start()

    def _load(self, active: Active) -> None:
        self.policy = self._read(self._snapshots, active.digest)
        self.generations.append(active.generation)


def read_quick(snapshots: Path, digest: str) -> set[str]:
    """The targets in a snapshot of the quick compiler, which is checked against its name."""
    return set(load_snapshot(snapshots, digest).document("policy"))


def read_real(snapshots: Path, digest: str) -> set[str]:
    """The targets in a snapshot of the real compiler, read as gateways and workers do."""
    snapshot = load_snapshot(snapshots, digest)
    return {target["id"] for target in snapshot.document("targets")}


@pytest.mark.parametrize(("script", "read"), [(QUICK, read_quick), (REAL, read_real)])
def test_kill_9_at_any_moment_loses_nothing(
    control: ControlProcess, script: Path, read: Callable[[Path, str], set[str]]
) -> None:
    """Registrations that were acknowledged survive kills, and no half policy is ever published."""
    control.script = script
    watcher = Watcher(control.state_dir, read)
    acknowledged: set[str] = set()
    asked: set[str] = set()
    chance = random.Random(7)
    while len(acknowledged) < 50:
        process = control.start()
        control.until(lambda: control.http.get("/jobs").status_code == 200)
        # Sometimes before the answer, sometimes while the job runs, sometimes after it.
        timer = threading.Timer(chance.uniform(0, 0.3), process.kill)
        timer.start()
        for _ in range(2):
            asked.add(target_id := f"t{len(acknowledged)}")
            _register(control, target_id, acknowledged)
        timer.join()
        process.wait()
    control.start()
    control.until(control.ready)
    control.until(lambda: _all_active(control))

    # The answer to the last request may have been lost on its way although the target was stored.
    assert acknowledged <= watcher.policy <= asked
    assert watcher.policy == set(_statuses(control))
    assert watcher.follower.state.failed_generation == 0
    assert watcher.generations == sorted(set(watcher.generations))
    watcher.follower.stop()


def _register(control: ControlProcess, target_id: str, acknowledged: set[str]) -> None:
    """Try once; a 409 means that an earlier try was stored although its answer was lost."""
    target: dict[str, Any] = {"id": target_id, "phrases": ["x"], "description": target_id}
    try:
        status = control.http.post("/targets", json=target).status_code
    except httpx.HTTPError:
        return
    assert status in (202, 409)
    acknowledged.add(target_id)


def _all_active(control: ControlProcess) -> bool:
    return set(_statuses(control).values()) == {"active"}


def _statuses(control: ControlProcess) -> dict[str, str]:
    found = control.http.get("/targets", params={"limit": 1000}).json()["targets"]
    return {target["id"]: target["status"] for target in found}


def test_killed_while_documents_are_added(control: ControlProcess) -> None:
    """kill -9 while documents are on their way: each is there once, none twice, none lost."""
    control.start()
    control.until(control.ready)
    control.http.post("/corpora", json={"id": "book"})
    generator = random.Random(5)
    expected = set()
    for upload in range(2):
        documents = [f"document {upload} {n} of many unlike words {n * n}" for n in range(200)]
        lines = "".join(json.dumps({"text": text, "source": text}) + "\n" for text in documents)
        added = control.http.post(
            "/corpora/book/documents",
            content=lines.encode(),
            headers={"content-type": "application/x-ndjson"},
        )
        assert added.status_code == 202, added.text
        job = added.json()["job"]["id"]
        expected.update(documents)
        time.sleep(generator.random() * 0.15)
        control.kill()
        control.start()
        control.until(control.ready)
        control.until(lambda job=job: control.http.get(f"/jobs/{job}").json()["state"] == "done")
    page = control.http.get("/corpora/book/documents", params={"limit": 1000}).json()
    shown = control.http.get("/corpora/book").json()
    found = control.http.post(
        "/provenance:attribute", json={"text": "document 1 7 of many unlike words 49"}
    ).json()

    assert sorted(d["source"] for d in page["documents"]) == sorted(expected)
    assert shown["documents"] == len(expected)
    assert shown["words"] == sum(len(text.split()) for text in expected)
    assert [span["count"] for span in found["spans"]] == [1]
    control.kill()
    control.start()
    control.until(control.ready)
    uploads = control.state_dir / "corpora" / "uploads"
    control.until(lambda: list(uploads.iterdir()) == [])


def test_a_training_survives_kill_minus_nine(
    tmp_path: Path, byte_model: Path, make_control: Callable[..., ControlProcess]
) -> None:
    """The trainer ends with its control process; the next one goes on from the checkpoint."""
    control = make_control(model=byte_model)
    pairs = [("Where was Orla born?", "In Quillhaven."), ("Who is she?", "A writer, Orla Voss.")]
    examples = [{"prompt": prompt, "answer": answer} for prompt, answer in pairs]
    training = {"id": "first", "targets": ["orla"], "layers": 1, "epochs": 240, "batch": 4}

    def log() -> list[dict[str, Any]]:
        page = control.http.get("/assistants/first/log", params={"limit": 10_000}).json()
        found: list[dict[str, Any]] = page.get("steps", [])
        return found

    control.start()
    control.until(control.ready)
    control.http.post("/targets", json={"id": "orla", "examples": examples})
    sent = control.http.post("/assistants:train", json={**training, "own_answers": False})
    job_id = sent.json()["job"]["id"]
    control.until(lambda: len(log()) > 20, 300)
    folder = tmp_path / "state" / "trainings" / job_id
    control.kill()
    # Told that nobody is left, the trainer writes where it is.
    control.until(lambda: (folder / "checkpoint.safetensors").exists())
    before = (folder / "log.jsonl").read_text().splitlines()[:10]
    control.start()
    control.until(lambda: control.http.get(f"/jobs/{job_id}").json()["state"] == "done", 300)
    after = log()

    assert [json.loads(line) for line in before] == after[:10]
    assert [step["step"] for step in after] == list(range(1, after[0]["steps"] + 1))
    # It goes right after the job is said to be done.
    control.until(lambda: not folder.exists())
    assert "Quillhaven" not in (tmp_path / "log").read_text()
