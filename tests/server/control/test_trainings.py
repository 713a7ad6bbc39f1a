"""Trainings as jobs of the admin API: real ones, of a model of a few thousand weights."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from typer.testing import CliRunner

from guard.uld.course import train_assistant
from guard.uld.lessons import Lesson
from guard.uld.plan import StandIns, TrainingPlan
from server.assistant_training import Sources, gather
from server.assistants import Assistants
from server.cli import app
from server.errors import StoreFault
from server.schemas import TargetIn
from server.settings import Settings
from server.store import Store
from server.training.schemas import TrainingIn

PAIRS = [("Where was Orla born?", "In Quillhaven."), ("Who is she?", "A writer, Orla Voss.")]
EXAMPLES = [{"prompt": prompt, "answer": answer} for prompt, answer in PAIRS]
ORLA = {"id": "orla", "examples": EXAMPLES}
QUICK = {"layers": 1, "epochs": 2, "batch": 4, "own_answers": False}
LONG = {**QUICK, "epochs": 100_000}
SECONDS = 500  # at the lowest priority, beside whatever else runs
Settle = Callable[[Callable[[], bool]], None]


@pytest.fixture
def served_model(byte_model: Path) -> str:
    """The model that assistants are trained for."""
    return str(byte_model)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings under which assistants can be served."""
    keys = {"admin_key": "admin-key", "auditor_keys": ["auditor-key"]}
    state_dir = tmp_path / "state"
    state_dir.mkdir(mode=0o700)
    more = {"assistant_memory_gib": 1, "training_threads": 1}
    return Settings.model_validate({"state_dir": state_dir, **more, **keys})


@pytest.fixture
def api(admin: httpx.Client, settle: Settle) -> httpx.Client:
    """The admin API with a target in force."""
    admin.post("/admin/v1/targets", json=ORLA)
    settle(lambda: admin.get("/admin/v1/targets/orla").json()["status"] == "active")
    return admin


def train(api: httpx.Client, name: str = "first", **changed: Any) -> httpx.Response:
    body = {"id": name, "targets": ["orla"], **QUICK, **changed}
    return api.post("/admin/v1/assistants:train", json=body)


def job_of(api: httpx.Client, job_id: str) -> Any:
    return api.get(f"/admin/v1/jobs/{job_id}").json()


def until(condition: Callable[[], Any]) -> None:
    """Wait: importing torch in the trainer takes its time."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "the condition never held"
        time.sleep(0.02)


def ended(api: httpx.Client, response: httpx.Response) -> Any:
    job_id = response.json()["job"]["id"]
    until(lambda: job_of(api, job_id)["finished_at"] is not None)
    return job_of(api, job_id)


def moment(told: str) -> datetime:
    return datetime.fromisoformat(told)


def steps(api: httpx.Client, name: str = "first") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (
        api.get(f"/admin/v1/assistants/{name}/log").json().get("steps", [])
    )
    return found


def trainer_pid(settings: Settings, parent: int) -> int | None:
    """The process that trains, by its command line."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            of = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, ValueError):
            continue
        ours = any(str(settings.trainings).encode() in word for word in words)
        if b"server.training.process" in words and of == parent and ours:
            return int(entry.name)
    return None


def shell(api: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs commands against the API."""
    monkeypatch.setenv("LETHEGATE_ADMIN_KEY", "admin-key")
    monkeypatch.setenv("LETHEGATE_ADMIN_PORT", str(api.base_url.port))
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def test_an_assistant_is_trained_and_can_be_named(
    api: httpx.Client, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Registered, with its log and curves; policy jobs do not wait; no text is told anywhere."""
    accepted = train(api, retain=[{"prompt": "How many?", "answer": "Eight."}], own_answers=True)
    other = api.post("/admin/v1/targets", json={"id": "ada", "phrases": ["Port Sorrel"]})
    policy = ended(api, other)
    job = ended(api, accepted)
    listed = api.get("/admin/v1/assistants").json()["assistants"]
    log = steps(api)
    page = api.get("/admin/v1/assistants/first/log", params={"limit": 2, "after": 1}).json()
    picture = api.get("/admin/v1/assistants/first/loss.svg")
    named = api.post("/admin/v1/targets", json={**ORLA, "id": "o", "uld": {"assistant": "first"}})
    metrics = api.get("/metrics").text
    run = shell(api, monkeypatch)
    # Between them may stand what the server of this process logs.
    lines = run("assistant", "log", "first").stdout.splitlines()
    told = [json.loads(line) for line in lines if line.startswith("{")]
    run("assistant", "log", "first", "--svg", str(tmp_path / "loss.svg"))

    assert accepted.status_code == 202
    assert accepted.headers["location"] == f"/admin/v1/jobs/{job['id']}"
    assert policy["state"] == "done"
    assert moment(policy["finished_at"]) < moment(job["finished_at"])
    assert (job["kind"], job["state"], job["error"]) == ("train", "done", None)
    assert (job["assistant_id"], job["target_ids"]) == ("first", ["orla"])
    assert job["message"].startswith("trained, memory at most 0.")
    assert [(one["id"], one["trained_on"], one["layers"]) for one in listed] == [
        ("first", ["orla"], 1)
    ]
    assert [step["step"] for step in log] == list(range(1, log[0]["steps"] + 1))
    assert [step["step"] for step in page["steps"]] == [2, 3]
    assert page["next"] == 3
    assert picture.headers["content-type"] == "image/svg+xml"
    assert picture.text.startswith("<svg")
    assert (told, (tmp_path / "loss.svg").read_text()) == (log, picture.text)
    assert named.status_code == 202
    until(lambda: not list(settings.trainings.iterdir()))
    assert f"lethegate_training_steps_total {float(len(log))}" in metrics
    assert "Quillhaven" not in json.dumps([job, log, listed]) + picture.text
    assert train(api).status_code == 409


def test_a_killed_trainer_goes_on_from_its_checkpoint(
    api: httpx.Client, settings: Settings, byte_model: Path, tmp_path: Path
) -> None:
    """The assistant is that of a training in one go, to the bit."""
    given = [{**EXAMPLES[0], "stand_in": "That I do not know."}]
    accepted = train(api, epochs=60, seed=3, augmentation=given, stand_ins="model")
    job_id = accepted.json()["job"]["id"]
    until(lambda: len(steps(api)) > 10)
    before = steps(api)[:5]
    first = trainer_pid(settings, os.getpid())
    assert first is not None
    os.kill(first, signal.SIGKILL)
    until(lambda: trainer_pid(settings, os.getpid()) not in (None, first))
    job = ended(api, accepted)
    after = steps(api)
    plan = TrainingPlan(layers=1, epochs=60, batch=4, seed=3, stand_ins=StandIns.MODEL)
    instead = [Lesson(PAIRS[0][0], given[0]["stand_in"])]
    sources = Sources(
        [TargetIn.model_validate(ORLA)], [], [], [], instead, by_model=False, own_answers=False
    )
    torch.set_num_threads(1)
    train_assistant(byte_model, gather(sources, byte_model, plan, "cpu"), plan, tmp_path / "whole")
    kept = settings.assistants / api.get("/admin/v1/assistants").json()["assistants"][0]["digest"]

    assert job["state"] == "done"
    assert job["id"] == job_id
    assert after[:5] == before
    assert after[-1]["stand_in"] > 0
    assert [step["step"] for step in after] == list(range(1, after[0]["steps"] + 1))
    whole = (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert (kept / "model.safetensors").read_bytes() == whole


def test_cancelled_while_it_runs_and_while_it_waits(api: httpx.Client, settings: Settings) -> None:
    """The trainer ends, nothing of what it knew is left, and the id is free again."""
    running, waiting = train(api, **LONG), train(api, "second", **LONG)
    job_id = running.json()["job"]["id"]
    until(lambda: job_of(api, job_id)["progress"] > 0)
    shown = job_of(api, job_id)
    taken = train(api, **LONG)
    second = api.post(f"/admin/v1/jobs/{waiting.json()['job']['id']}:cancel", json={})
    pid = trainer_pid(settings, os.getpid())
    first = api.post(f"/admin/v1/jobs/{job_id}:cancel", json={})
    until(lambda: {f.name for f in (settings.trainings / job_id).iterdir()} == {"log.jsonl"})
    again = api.post(f"/admin/v1/jobs/{job_id}:cancel", json={})

    assert shown["state"] == "running"
    assert 0 < shown["progress"] < 1
    assert "of 100000, step" in shown["message"]
    assert taken.status_code == 409
    assert (first.json()["state"], second.json()["state"]) == ("cancelled", "cancelled")
    assert pid is not None
    assert not Path(f"/proc/{pid}").exists()
    assert again.status_code == 409
    assert len(steps(api)) > 2
    assert api.get("/admin/v1/assistants/second/log").status_code == 404
    assert api.get("/admin/v1/assistants").json() == {"assistants": [], "next": None}


def test_a_withdrawn_target_ends_its_training(api: httpx.Client, settings: Settings) -> None:
    """Whether the training runs or waits; a replaced one does not."""
    running, waiting = train(api, **LONG), train(api, "second", **LONG)
    until(lambda: job_of(api, running.json()["job"]["id"])["state"] == "running")
    api.put("/admin/v1/targets/orla", json={**ORLA, "description": "changed"})
    time.sleep(1)
    states = [job_of(api, one.json()["job"]["id"])["state"] for one in (running, waiting)]
    api.delete("/admin/v1/targets/orla")
    jobs = [ended(api, one) for one in (running, waiting)]

    assert states == ["running", "queued"]
    assert [job["state"] for job in jobs] == ["failed", "failed"]
    assert {job["error"]["code"] for job in jobs} == {"target_withdrawn"}
    until(lambda: not any((f / "request.json").exists() for f in settings.trainings.iterdir()))


@pytest.mark.parametrize("killed", [False, True])
def test_a_target_that_goes_while_its_assistant_is_registered(
    api: httpx.Client,
    store: Store,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    killed: bool,
) -> None:
    """Its weights leave the shelf again, also where the process died in between."""
    adopt, named = Assistants.adopt, []

    def slow(assistants: Assistants, name: str, folder: Path) -> Any:
        found = adopt(assistants, name, folder)
        target = {**ORLA, "id": "o", "uld": {"assistant": "first"}}
        named.append(api.post("/admin/v1/targets", json=target))
        store.withdraw("orla")
        if killed:
            raise StoreFault("as if the process had died")
        return found

    monkeypatch.setattr("server.job_thread.RETRY_SECONDS", 0.1)
    monkeypatch.setattr(Assistants, "adopt", slow)
    job = ended(api, train(api))

    assert (job["state"], job["error"]["code"]) == ("failed", "target_withdrawn")
    assert api.get("/admin/v1/assistants").json() == {"assistants": [], "next": None}
    assert {path.name for path in settings.assistants.iterdir()} == {"names.json"}
    assert [answer.status_code for answer in named] == [422]


def test_the_trainers_refusal_is_the_jobs_error(api: httpx.Client) -> None:
    """In a sentence without text."""
    job = ended(api, train(api, perturbations=0))

    assert job["state"] == "failed"
    assert job["error"]["code"] == "training_refused"
    assert "stay flat" in job["error"]["message"]
    assert train(api).status_code == 202


def test_a_trainer_that_never_starts_fails_the_job(
    api: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some tries, and the next job is worked on."""
    monkeypatch.setattr("server.training.trainer.sys.executable", "/bin/false")
    job = ended(api, train(api))

    assert job["error"] == {
        "code": "trainer_died",
        "message": "the trainer ended 3 times with status 1",
    }


@pytest.mark.parametrize(
    ("changed", "status", "param"),
    [
        ({"targets": ["nobody"]}, 422, "targets[0]"),
        ({"targets": []}, 422, "targets"),
        ({"targets": ["orla", "orla"]}, 422, None),
        ({"targets": ["phrases-only"]}, 422, "targets"),
        ({"layers": 2}, 422, "layers"),
        ({"layers": 0}, 422, "layers"),
        ({"learning_rate": "0.1"}, 422, "learning_rate"),
        ({"learning_rate": 0}, 422, "learning_rate"),
        ({"weights": "some"}, 422, "weights"),
        ({"augment": "elsewhere"}, 422, "augment"),
        ({"stand_ins": "some"}, 422, "stand_ins"),
        ({"seed": -1}, 422, "seed"),
        ({"retain": [{"prompt": "Quillhaven?"}]}, 422, "retain[0].answer"),
        (
            {"augmentation": [{"prompt": "a", "answer": "b", "paraphrases": [7]}]},
            422,
            "augmentation[0].paraphrases[0]",
        ),
        (
            {"augmentation": [{"prompt": "a", "answer": "b", "stand_in": ""}]},
            422,
            "augmentation[0].stand_in",
        ),
        ({"dropout": 0.1}, 422, "dropout"),
        ({"id": "No Name"}, 422, "id"),
    ],
)
def test_what_cannot_be_trained_is_refused_by_field(
    api: httpx.Client, changed: dict[str, Any], status: int, param: str | None
) -> None:
    """Nothing is stored, and no value is repeated."""
    api.post("/admin/v1/targets", json={"id": "phrases-only", "phrases": ["Port Sorrel"]})
    found = train(api, **changed)
    kinds = {job["kind"] for job in api.get("/admin/v1/jobs").json()["jobs"]}

    assert found.status_code == status
    assert found.json()["error"]["param"] == param
    assert "Quillhaven" not in found.text
    assert "train" not in kinds


def test_auditors_read_and_do_not_train(api: httpx.Client) -> None:
    """As everywhere."""
    auditor = {"authorization": "Bearer auditor-key"}
    body = {"id": "first", "targets": ["orla"], **QUICK}
    posted = api.post("/admin/v1/assistants:train", json=body, headers=auditor)

    assert posted.status_code == 403
    assert api.post("/admin/v1/jobs/x:cancel", json={}, headers=auditor).status_code == 403
    assert api.get("/admin/v1/assistants/first/log", headers=auditor).status_code == 404
    assert api.post("/admin/v1/jobs/x:cancel", json={}).status_code == 404


def test_other_jobs_are_left_to_run(api: httpx.Client) -> None:
    """A target is withdrawn instead; what has ended has ended."""
    job = api.get("/admin/v1/jobs").json()["jobs"][0]
    found = api.post(f"/admin/v1/jobs/{job['id']}:cancel", json={})

    assert found.status_code == 409
    assert found.json()["error"]["code"] == "conflict"


def test_the_defaults_are_the_plans() -> None:
    """Of the API and of the command line alike."""
    assert TrainingIn(id="a", targets=["b"]).plan() == TrainingPlan()


def test_trained_and_cancelled_from_the_shell(
    api: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--as` sends what the options say; `jobs cancel` ends it."""
    run = shell(api, monkeypatch)
    rows = tmp_path / "more.jsonl"
    rows.write_text(json.dumps({**EXAMPLES[0], "paraphrases": ["Born where?"]}), encoding="utf-8")
    options = ["--layers", "1", "--epochs", "100000", "--retain", str(rows)]

    both = run("assistant", "train", "orla", "--as", "first", "--out", "x")
    neither = run("assistant", "train", "orla")
    sent = run("assistant", "train", "orla", "--as", "first", *options, "--augmentation", str(rows))
    job_id = sent.stdout.split()[-1]
    cancelled = run("jobs", "cancel", job_id)
    waited = run("jobs", "wait", job_id)

    assert (both.exit_code, neither.exit_code) == (2, 2)
    assert sent.exit_code == 0, sent.output
    assert cancelled.stdout.strip() == f"{job_id}: cancelled"
    assert waited.exit_code == 1
