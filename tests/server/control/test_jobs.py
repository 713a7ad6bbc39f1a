"""The job worker, with a small true compiler and real followers."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from guard.errors import SnapshotCorrupt, SnapshotMissing
from guard.follower import Active, ActivePointer, Follower
from server.activation import SnapshotPublisher
from server.errors import StartFault
from server.jobs import JobWorker
from server.metrics.control import ControlMetrics
from server.schemas import TargetIn
from server.settings import Settings
from server.store import Store
from server.tables import FINAL_STATES, JobState, TargetStatus
from server.worklist import Worklist
from tests.server.control.fake_control import QuickCompiler

BOTH = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)
Settle = Callable[[Callable[[], bool]], None]


def _target(target_id: str = "ada", **fields: Any) -> TargetIn:
    return TargetIn.model_validate({"id": target_id, "phrases": ["Port Sorrel"], **fields})


@pytest.fixture
def ended(store: Store, settle: Settle) -> Callable[[str], JobState]:
    """Wait for a job's end and give its state."""

    def wait(job_id: str) -> JobState:
        settle(lambda: store.jobs().find(job_id).state in FINAL_STATES)
        return store.jobs().find(job_id).state

    return wait


def test_an_empty_policy_comes_first(
    make_worker: Callable[..., JobWorker], publisher: SnapshotPublisher, settle: Settle
) -> None:
    """Without any target there is still a policy, so that gateways can be ready."""
    worker = make_worker()
    settle(lambda: worker.ready)
    active = publisher.read()

    assert active is not None
    assert active.generation == 1
    assert publisher.holds(active.digest)


@BOTH
def test_done_means_every_follower_applies_it(
    make_worker: Callable[..., JobWorker],
    follow: Callable[..., Follower],
    store: Store,
    ended: Callable[[str], JobState],
) -> None:
    """When a job is done, every live follower has acknowledged its generation."""
    followers = [follow(), follow(lambda active: time.sleep(0.2))]
    worker = make_worker()
    _, job = store.register(_target())
    worker.notify()

    assert ended(job.id) is JobState.DONE
    generation = store.jobs().find(job.id).generation
    assert generation is not None
    assert all(follower.state.generation >= generation for follower in followers)
    assert store.target("ada")[0].status is TargetStatus.ACTIVE


@BOTH
def test_a_burst_is_compiled_together(
    make_worker: Callable[..., JobWorker],
    store: Store,
    compiler: Any,
    settle: Settle,
    ended: Callable[[str], JobState],
) -> None:
    """Jobs that wait at the same time cost one compilation."""
    jobs = [store.register(_target(f"t{number}"))[1] for number in range(20)]
    worker = make_worker()

    assert {ended(job.id) for job in jobs} == {JobState.DONE}
    settle(lambda: worker.ready)
    assert len(compiler.calls) == 1


@BOTH
def test_one_bad_target_fails_alone(
    make_worker: Callable[..., JobWorker],
    store: Store,
    publisher: SnapshotPublisher,
    ended: Callable[[str], JobState],
) -> None:
    """Among jobs compiled together only the one that cannot be compiled fails."""
    jobs = {
        name: store.register(_target(name, labels={"fail": "compile"} if name == "c" else {}))[1]
        for name in "abcdef"
    }
    make_worker()

    states = {name: ended(job.id) for name, job in jobs.items()}
    assert [name for name, state in states.items() if state is JobState.FAILED] == ["c"]
    error = store.jobs().find(jobs["c"].id).error
    assert error is not None
    assert error.code == "policy_not_compiled"
    assert publisher.read() is not None


@BOTH
def test_rejected_policy_is_rolled_back(
    make_worker: Callable[..., JobWorker],
    follow: Callable[..., Follower],
    store: Store,
    publisher: SnapshotPublisher,
    settle: Settle,
    ended: Callable[[str], JobState],
) -> None:
    """A policy that a follower cannot load fails its job; the last good one is published again."""
    worker = make_worker()
    settle(lambda: worker.ready)
    good = publisher.read()
    assert good is not None

    def load(active: Active) -> None:
        if active.digest != good.digest:
            raise SnapshotCorrupt("broken here")

    follower = follow(load)
    _, job = store.register(_target())
    worker.notify()

    assert ended(job.id) is JobState.FAILED
    failed = store.jobs().find(job.id).error
    active = publisher.read()
    assert failed is not None
    assert (failed.code, "SnapshotCorrupt" in failed.message) == ("policy_rejected", True)
    assert active is not None
    assert (active.digest, active.generation) == (good.digest, good.generation + 2)
    settle(lambda: follower.state.generation == active.generation)
    assert store.target("ada")[0].status is TargetStatus.FAILED


@pytest.mark.parametrize("missing", [True, False])
def test_a_snapshot_damaged_on_disk_is_compiled_anew(
    make_worker: Callable[..., JobWorker],
    settings: Settings,
    publisher: SnapshotPublisher,
    settle: Settle,
    missing: bool,
) -> None:
    """A worker that starts and cannot read the policy in force is helped without an operator."""
    worker = make_worker(idle_seconds=0.05)
    settle(lambda: worker.ready)
    active = publisher.read()
    assert active is not None
    folder = settings.snapshots / active.digest
    content = (folder / "policy.json").read_bytes()
    shutil.rmtree(folder)
    if not missing:
        folder.mkdir()
        (folder / "policy.json").write_bytes(b"{")
        (folder / "corpora.json").write_bytes(b"")

    def load(active: Active) -> None:
        path = settings.snapshots / active.digest / "policy.json"
        if not path.exists():
            raise SnapshotMissing("it is gone")
        if path.read_bytes() != content:
            # As the real compiler does when it writes the same content.
            shutil.rmtree(path.parent)
            raise SnapshotCorrupt("it is damaged")

    follower = Follower(settings.state_dir, "worker", load)
    follower.start()
    settle(lambda: follower.state.generation == active.generation + 1)
    time.sleep(0.3)
    after = publisher.read()

    assert after is not None
    assert (after.generation, after.digest) == (active.generation + 1, active.digest)
    follower.stop()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EMFILE], ids=os.strerror)
def test_a_full_disk_delays_a_job(
    make_worker: Callable[..., JobWorker],
    compiler: Any,
    store: Store,
    settle: Settle,
    ended: Callable[[str], JobState],
    publisher: SnapshotPublisher,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    """Also one that became read-only, and where no file descriptors are left.

    The last policy rules on, the fault is counted, and the job is done when there is room.
    """
    monkeypatch.setattr("server.jobs.RETRY_SECONDS", 0.05)
    registry = CollectorRegistry()
    worker = make_worker(metrics=ControlMetrics(registry))
    settle(lambda: worker.ready)
    before = publisher.read()
    compile_, full = compiler.compile, threading.Event()
    full.set()

    def compile_on_full_disk(*arguments: Any) -> Any:
        if full.is_set():
            raise OSError(number, os.strerror(number))
        return compile_(*arguments)

    def failures(part: str) -> float:
        return registry.get_sample_value("lethegate_storage_failures_total", {"part": part}) or 0.0

    monkeypatch.setattr(compiler, "compile", compile_on_full_disk)
    _, job = store.register(_target())
    worker.notify()
    settle(lambda: failures("files") >= 2)

    assert publisher.read() == before
    assert store.jobs().find(job.id).state not in FINAL_STATES
    assert failures("store") == 0

    full.clear()

    assert ended(job.id) is JobState.DONE


def test_a_silent_follower_is_not_waited_for_forever(
    make_worker: Callable[..., JobWorker],
    settings: Settings,
    store: Store,
    publisher: SnapshotPublisher,
    settle: Settle,
    ended: Callable[[str], JobState],
) -> None:
    """A live follower that does not answer fails the job in time."""
    worker = make_worker(acknowledge_timeout_seconds=0.3)
    settle(lambda: worker.ready)
    silent = Follower(settings.state_dir, "worker", lambda active: None)
    _, job = store.register(_target())
    worker.notify()

    assert ended(job.id) is JobState.FAILED
    error = store.jobs().find(job.id).error
    assert error is not None
    assert error.code == "policy_not_acknowledged"
    silent.stop()


@BOTH
def test_withdrawal(
    make_worker: Callable[..., JobWorker],
    store: Store,
    compiler: Any,
    ended: Callable[[str], JobState],
) -> None:
    """A withdrawn target is compiled out, then deleted."""
    worker = make_worker()
    _, first = store.register(_target())
    worker.notify()
    assert ended(first.id) is JobState.DONE
    _, second = store.withdraw("ada")
    worker.notify()

    assert ended(second.id) is JobState.DONE
    assert compiler.calls[-1] == []
    assert store.target_page(None, 10) == []


def test_expired_targets_leave(
    make_worker: Callable[..., JobWorker], store: Store, settle: Settle
) -> None:
    """A target leaves the policy by itself when its time is over."""
    worker = make_worker()
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 2))
    store.register(_target(expires_at=moment))
    worker.notify()

    settle(lambda: store.target_page(None, 10) == [])
    assert store.jobs().page(None, 1)[0].kind == "expire"


@BOTH
def test_interrupted_jobs_are_resumed(
    make_worker: Callable[..., JobWorker],
    store: Store,
    worklist: Worklist,
    ended: Callable[[str], JobState],
) -> None:
    """Jobs that a dead process was running are done by the next one."""
    _, job = store.register(_target())
    worklist.take()
    make_worker()

    assert ended(job.id) is JobState.DONE


def test_other_models_mean_a_new_policy(
    make_worker: Callable[..., JobWorker],
    settings: Settings,
    publisher: SnapshotPublisher,
    settle: Settle,
) -> None:
    """A restart with the same models keeps the generation; with others it compiles again."""
    first = make_worker()
    settle(lambda: first.ready)
    first.stop()
    second = make_worker()
    settle(lambda: second.ready)
    second.stop()
    kept = publisher.read()
    other = QuickCompiler(settings.snapshots, fingerprint="quick-2")
    third = make_worker(build_compiler=lambda: other)
    settle(lambda: third.ready)
    renewed = publisher.read()

    assert kept is not None
    assert renewed is not None
    assert (kept.generation, renewed.generation) == (1, 2)
    assert other.calls == [[]]


def test_pointer_ahead_of_the_store(
    make_worker: Callable[..., JobWorker],
    settings: Settings,
    publisher: SnapshotPublisher,
    settle: Settle,
) -> None:
    """After the store was restored from an old backup, generations still grow."""
    ActivePointer(settings.state_dir).publish(41, "0" * 64)
    worker = make_worker()
    settle(lambda: worker.ready)
    active = publisher.read()

    assert active is not None
    assert active.generation == 42


def test_a_compiler_that_cannot_be_built_is_a_fault(
    make_worker: Callable[..., JobWorker], settle: Settle
) -> None:
    """When the models cannot be loaded the worker says so and is not ready."""
    told: list[bool] = []

    def build() -> Any:
        raise RuntimeError("no such model")

    worker = make_worker(build_compiler=build, on_fault=lambda: told.append(True))
    settle(lambda: bool(told))

    assert isinstance(worker.fault, StartFault)
    assert "no such model" in str(worker.fault)
    assert not worker.ready


def test_a_compiler_bug_fails_the_job_without_its_text(
    make_worker: Callable[..., JobWorker],
    compiler: Any,
    store: Store,
    settle: Settle,
    ended: Callable[[str], JobState],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An unexpected exception ends the job; its message, which may quote, goes nowhere."""
    worker = make_worker()
    settle(lambda: worker.ready)

    def explode(*_: Any) -> Any:
        raise KeyError("Port Sorrel")

    monkeypatch.setattr(compiler, "compile", explode)
    _, job = store.register(_target())
    worker.notify()

    assert ended(job.id) is JobState.FAILED
    printed = capsys.readouterr()
    assert "Port Sorrel" not in printed.out + printed.err + str(store.jobs().find(job.id))
