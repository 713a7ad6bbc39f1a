"""The job worker: one thread that turns queued changes into a policy in force.

All waiting jobs are compiled together, so a burst of registrations costs one compilation. A batch
is done when every live follower has acknowledged its generation. When it cannot be compiled or
loaded, the last good policy goes on ruling and the batch is halved, so that one bad target fails
alone.

Knows neither the compiler nor the pointer's file: both are given.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from detectors.targets import ForgetTarget
from guard.errors import CompileError
from guard.vetoed import VetoedCorpus
from server.errors import (
    NotReady,
    PolicyFault,
    PolicyNotAcknowledged,
    PolicyNotCompiled,
    PolicyRejected,
    StartFault,
    StoreFault,
)
from server.log import fault_fields, get_logger
from server.metrics.control import ControlMetrics
from server.metrics.labels import Storage
from server.policy import Compilation, Compiler, FollowerStatus, Publisher
from server.records import GenerationRecord, JobRecord
from server.store import Store
from server.tables import JobState
from server.worklist import Plan, Worklist

POLL_SECONDS = 0.02
IDLE_SECONDS = 60.0
RETRY_SECONDS = 5.0
_PROGRESS_SECONDS = 0.25
# What a follower says of a snapshot that is not on disk as it was written: compiling mends that.
_DAMAGED = frozenset({"SnapshotMissing", "SnapshotCorrupt"})
_REASON = re.compile(r"[A-Za-z_]{1,40}")

log = get_logger("jobs")


class _Stopped(Exception):
    """The process is ending: leave the jobs as they are, the next start resumes them."""


class JobWorker:
    """Compiles, publishes and waits for acknowledgements, in a thread of its own.

    `ready` is True while a policy made with the current models is in force. `fault` names the
    exception that ended the thread, if one did; `on_fault` is then called.
    """

    def __init__(
        self,
        store: Store,
        worklist: Worklist,
        publisher: Publisher,
        build_compiler: Callable[[], Compiler],
        *,
        metrics: ControlMetrics,
        acknowledge_timeout_seconds: float = 120.0,
        idle_seconds: float = IDLE_SECONDS,
        housekeeping: Callable[[], None] = lambda: None,
        sync_documents: Callable[[Sequence[ForgetTarget]], None] = lambda targets: None,
        vetoed_corpora: Callable[[], Sequence[VetoedCorpus]] = tuple,
        on_fault: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._worklist = worklist
        self._publisher = publisher
        self._build_compiler = build_compiler
        self._metrics = metrics
        self._timeout_seconds = acknowledge_timeout_seconds
        # Other processes that queue jobs cannot wake this one.
        self._longest_idle_seconds = idle_seconds
        self._housekeeping = housekeeping
        self._sync_documents = sync_documents
        self._vetoed_corpora = vetoed_corpora
        self._on_fault = on_fault
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)
        self._compiler: Compiler
        self._loaded = threading.Event()
        self._previews = threading.Lock()
        self._mended = 0
        self.ready = False
        self.fault: BaseException | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def notify(self) -> None:
        """A job was queued."""
        self._wake.set()

    def preview(self, target: ForgetTarget, others: Sequence[ForgetTarget]) -> Mapping[str, Any]:
        """The calibration report that a target would have beside others; one at a time.

        Raises:
            NotReady: the models are still being loaded.
        """
        if not self._loaded.is_set():
            raise NotReady("The models are being loaded.")
        with self._previews:
            return self._compiler.preview(target, others)

    def stop(self, timeout_seconds: float = 10.0) -> None:
        """End the thread soon; a compilation that is running is left behind and resumed later."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)

    def _run(self) -> None:
        try:
            self._compiler = self._build()
            self._loaded.set()
            while not self._stop.is_set():
                self._run_guarded()
        except _Stopped:
            pass
        except Exception as error:
            self.fault = error
            self.ready = False
            log.error("worker_failed", **fault_fields(error))
            self._on_fault()

    def _build(self) -> Compiler:
        try:
            return self._build_compiler()
        except Exception as error:
            # No target has been read yet, so the message can be shown.
            raise StartFault(f"cannot load the models: {error}") from error

    def _run_guarded(self) -> None:
        """Work until a fault of store or disk; jobs cut short by one are taken up again."""
        try:
            resumed = self._worklist.recover()
            if resumed:
                log.info("jobs_resumed", count=resumed)
            while not self._stop.is_set():
                self._turn()
        except (StoreFault, OSError) as error:
            log.error("store_or_disk_fault", **fault_fields(error))
            if isinstance(error, OSError):
                self._metrics.record_storage_failure(Storage.FILES)
            self._stop.wait(RETRY_SECONDS)

    def _turn(self) -> None:
        """One round: expire, make sure there is a policy, process what waits, sleep."""
        self._wake.clear()
        self._store.expire(time.time())
        if not self.ready:
            self._ensure_policy()
        self._mend_snapshot()
        batch = self._worklist.take()
        if batch:
            self._process(batch)
            self._worklist.forget_old_jobs()
            self._housekeeping()
        self._metrics.set_queued(self._worklist.count_queued())
        self._metrics.set_targets(self._store.count_targets())
        if not batch or not self.ready:
            self._wake.wait(self._idle_seconds())

    def _idle_seconds(self) -> float:
        if not self.ready:
            return RETRY_SECONDS
        longest = self._longest_idle_seconds
        expiry = self._store.next_expiry()
        if expiry is None:
            return longest
        # One that is overdue could not be withdrawn: try again, but not in a spin.
        wait = expiry - time.time()
        return min(wait, longest) if wait > 0 else min(RETRY_SECONDS, longest)

    def _ensure_policy(self) -> None:
        """Ask for a compilation unless the pointer names a good policy of the current models."""
        active, good = self._publisher.read(), self._worklist.last_good(self._compiler.fingerprint)
        if (
            active is not None
            and good is not None
            and (active.generation, active.digest) == (good.number, good.digest)
            and self._publisher.holds(good.digest)
        ):
            self._metrics.set_generation(good.number)
            try:
                self._sync_documents(self._worklist.plan(()).targets)
            except PolicyFault as fault:
                log.error("documents_not_in_force", error=type(fault).__name__)
            else:
                self.ready = True
        else:
            self._worklist.request_recompile()

    def _mend_snapshot(self) -> None:
        """Have the policy in force compiled anew, once, if a follower finds it damaged on disk."""
        active = self._publisher.read()
        if active is None or active.generation == self._mended:
            return
        refusing = [
            follower
            for follower in self._publisher.followers()
            if follower.failed_generation == active.generation and follower.error in _DAMAGED
        ]
        if refusing:
            log.error("snapshot_damaged", generation=active.generation, followers=len(refusing))
            self._mended = active.generation
            self._worklist.request_recompile()

    def _process(self, batch: Sequence[JobRecord]) -> None:
        """Bring a batch into force; halve it when it cannot be."""
        try:
            self._activate(batch)
        except PolicyFault as fault:
            log.warning("policy_failed", error=type(fault).__name__, jobs=len(batch))
            if len(batch) > 1 and not isinstance(fault, PolicyNotAcknowledged):
                middle = len(batch) // 2
                self._process(batch[:middle])
                self._process(batch[middle:])
                return
            self._worklist.fail(batch, fault)
            self._metrics.record_jobs(JobState.FAILED, len(batch))

    def _activate(self, batch: Sequence[JobRecord]) -> None:
        plan = self._worklist.plan(batch)
        compiled = self._compile(batch, plan)
        generation = self._publish(compiled.digest, batch[-1].kind, len(plan.targets))
        try:
            self._await_acknowledgements(generation)
            # Last: what a rollback leaves in force too much is put right by the next job.
            self._sync_documents(plan.targets)
        except PolicyFault:
            if self._stop.is_set():
                raise _Stopped from None
            self._roll_back()
            raise
        self._worklist.confirm(generation.number, batch, plan, compiled.reports)
        self._metrics.record_jobs(JobState.DONE, len(batch))
        self.ready = True
        log.info("policy_active", generation=generation.number, targets=len(plan.targets))

    def _compile(self, batch: Sequence[JobRecord], plan: Plan) -> Compilation:
        started = last_report = time.monotonic()

        def progress(stage: str, fraction: float) -> None:
            nonlocal last_report
            if self._stop.is_set():
                raise _Stopped
            if time.monotonic() - last_report >= _PROGRESS_SECONDS:
                last_report = time.monotonic()
                self._worklist.report_progress(batch, stage, fraction)

        try:
            compiled = self._compiler.compile(plan.targets, progress, self._vetoed_corpora())
        except (CompileError, PolicyFault) as error:
            raise PolicyNotCompiled(str(error)) from None
        except (_Stopped, StoreFault, OSError):
            raise
        except Exception as error:
            log.error("compiler_failed", **fault_fields(error))
            raise PolicyNotCompiled("the compiler failed on these targets") from None
        self._metrics.observe_compile(time.monotonic() - started)
        return compiled

    def _publish(self, digest: str, cause: str, num_targets: int) -> GenerationRecord:
        """Record a generation, then move the pointer to it."""
        active = self._publisher.read()
        generation = self._worklist.record_generation(
            digest,
            self._compiler.fingerprint,
            cause,
            num_targets,
            # The pointer is ahead of the store when the store was restored from a backup.
            above=active.generation if active is not None else 0,
        )
        self._publisher.publish(generation.number, digest)
        self._metrics.set_generation(generation.number)
        return generation

    def _await_acknowledgements(self, generation: GenerationRecord) -> None:
        """Wait until every live follower applies the generation.

        Raises:
            PolicyRejected: a follower could not load it.
            PolicyNotAcknowledged: one did not answer in time.
        """
        started = time.monotonic()
        while True:
            followers = self._publisher.followers()
            for follower in followers:
                if follower.failed_generation == generation.number:
                    raise PolicyRejected(_rejection(follower))
            behind = [f for f in followers if (f.generation or 0) < generation.number]
            if not behind:
                self._metrics.observe_activation(time.monotonic() - started)
                return
            if time.monotonic() - started > self._timeout_seconds:
                kinds = ", ".join(sorted({_named(f) for f in behind}))
                raise PolicyNotAcknowledged(f"{len(behind)} followers did not answer ({kinds})")
            if self._stop.wait(POLL_SECONDS):
                raise _Stopped

    def _roll_back(self) -> None:
        """Publish the last good policy again, under a generation of its own."""
        good = self._worklist.last_good(self._compiler.fingerprint)
        if good is None or not self._publisher.holds(good.digest):
            log.error("no_policy_to_roll_back_to")
            return
        generation = self._publish(good.digest, "rollback", good.num_targets)
        self._worklist.confirm(generation.number)
        self._metrics.record_rollback()


def _rejection(follower: FollowerStatus) -> str:
    reason = follower.error or ""
    if not _REASON.fullmatch(reason):
        reason = "load failed"
    return f"a process ({_named(follower)}) could not load the policy ({reason})"


def _named(follower: FollowerStatus) -> str:
    """What a follower is, and where, if that is not beside this process."""
    if follower.kind == "node" or not follower.node:
        return f"{follower.kind} {follower.node}".strip()
    return f"{follower.kind} of node {follower.node}"
