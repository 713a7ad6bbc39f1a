"""The trainings' worker: one thread that has one assistant trained at a time, in a child process.

A training goes on from its checkpoint whatever died: the trainer is started again here, and a job
that was running when this process ended is queued again at the next start. Whether it is still
wanted, and its targets still stand, is asked of the store all the while.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from guard.errors import GuardError
from guard.uld.steps import LOG, Step, last_step, read_steps
from server.assistants import Assistants
from server.error_table import row_of
from server.errors import (
    Conflict,
    NotFound,
    ServerError,
    ServerFault,
    TrainingDied,
    TrainingRefused,
)
from server.job_thread import JobThread, Stopped
from server.log import get_logger
from server.metrics.control import ControlMetrics
from server.settings import Settings
from server.tables import JobState
from server.training.request import Request, discard
from server.training.store import TrainingJob, TrainingStore
from server.training.trainer import Trainer

IDLE_SECONDS = 60.0
_LOOK_SECONDS = 0.5
_TRIES = 3

log = get_logger("trainings")


class TrainingWorker(JobThread):
    """Works through the trainings, in a thread of its own.

    `base` gives the served model's folder.
    """

    def __init__(
        self,
        settings: Settings,
        store: TrainingStore,
        assistants: Assistants,
        base: Callable[[], Path],
        *,
        metrics: ControlMetrics,
        idle_seconds: float = IDLE_SECONDS,
        checkpoint_seconds: float = 60.0,
    ) -> None:
        super().__init__("trainings", metrics)
        self._settings, self._store, self._assistants = settings, store, assistants
        self._base = base
        self._idle_seconds = idle_seconds
        self._checkpoint_seconds = checkpoint_seconds
        self._seen = 0

    def steps(self, job_id: str) -> list[Step]:
        """The log of a training that is not, or not yet, a registered assistant's."""
        return read_steps(self._settings.trainings / job_id / LOG)

    def _begin(self) -> None:
        self._store.recover()
        states = self._store.states()
        root = self._settings.trainings
        for folder in root.iterdir() if root.is_dir() else ():
            state = states.get(folder.name)
            if state not in (JobState.QUEUED, JobState.RUNNING):
                discard(folder, keep_log=state in (JobState.FAILED, JobState.CANCELLED))

    def _turn(self) -> None:
        self._wake.clear()
        taken = self._store.take()
        if taken is None:
            self._wake.wait(self._idle_seconds)
        else:
            self._process(taken)

    def _process(self, taken: TrainingJob) -> None:
        folder = self._settings.trainings / taken.job.id
        done = False
        try:
            request = self._request(taken, folder)
            message = self._trained(taken, folder, request)
            done = message is not None and self._register(taken, folder, request, message)
            if not done:
                self._take_back(taken)
        except ServerFault:
            raise  # of the store: the job is taken up again
        except ServerError as error:
            # While the job is open no target can name the assistant.
            self._take_back(taken)
            if self._store.fail(taken.job, row_of(error).code, str(error)):
                self._metrics.record_jobs(JobState.FAILED, 1)
        discard(folder, keep_log=not done)
        log.info("training_ended", job=taken.job.id, assistant=taken.wanted.id, done=done)

    def _register(self, taken: TrainingJob, folder: Path, request: Request, message: str) -> bool:
        """Put the assistant on the shelf and end the job; False where it was cancelled.

        Raises:
            TrainingTargetGone: a target was withdrawn.
        """
        name = taken.wanted.id
        # A run that was cut short just here may have done it already: the id was kept for it.
        if not self._assistants.holds(name):
            self._assistants.adopt(name, folder)
        # Copying takes seconds, in which a target may have gone: the store looks once more.
        if not self._store.finish(taken.job, request.births, message):
            return False
        self._metrics.record_jobs(JobState.DONE, 1)
        return True

    def _take_back(self, taken: TrainingJob) -> None:
        """Take off the shelf what the job put there, also before it was cut short."""
        if self._assistants.holds(taken.wanted.id):
            with suppress(Conflict, NotFound):  # a target names it already
                self._assistants.remove(taken.wanted.id)

    def _trained(self, taken: TrainingJob, folder: Path, request: Request) -> str | None:
        """Have it trained; gives what is told of it, None where the job was cancelled.

        Raises:
            ServerError: it came to nothing.
        """
        tries, before = 0, last_step(folder / LOG)
        self._seen = before.step if before is not None else 0
        while True:
            seen = self._seen
            with Trainer(folder) as trainer:
                log.info("training_started", job=taken.job.id, pid=trainer.pid)
                if not self._attend(taken, trainer, folder, request):
                    trainer.kill()
                    return None
                status, outcome = trainer.status(), trainer.outcome()
            if status == 0:
                memory = outcome.get("memory_gib")
                return "trained" + (f", memory at most {memory} GiB" if memory else "")
            if "message" in outcome:
                raise TrainingRefused(str(outcome["message"]))
            tries = 1 if self._seen > seen else tries + 1
            log.warning("trainer_died", job=taken.job.id, status=status, tries=tries)
            if tries == _TRIES:
                raise TrainingDied(
                    f"the trainer ended {_TRIES} times with status {status}"
                    + (": is there enough memory?" if status == -9 else "")
                )
            if self._stop.wait(tries * _LOOK_SECONDS):
                raise Stopped

    def _request(self, taken: TrainingJob, folder: Path) -> Request:
        found = Request.read(folder)
        if found is not None:
            return found
        documents, births = self._store.documents(taken.job), self._store.births(taken.job)
        self._store.expect_targets(taken.job, births)
        found = Request(
            wanted=taken.wanted.model_dump(mode="json"),
            documents=[documents[target_id] for target_id in sorted(documents)],
            births=births,
            base=str(self._folder_of_base()),
            device=self._settings.training_device,
            threads=self._settings.training_threads or max(1, (os.cpu_count() or 2) // 2),
            checkpoint_seconds=self._checkpoint_seconds,
        )
        found.write(folder)
        return found

    def _folder_of_base(self) -> Path:
        try:
            return self._base().absolute()
        except GuardError as error:
            raise TrainingRefused(str(error)) from None

    def _attend(self, taken: TrainingJob, trainer: Trainer, folder: Path, request: Request) -> bool:
        """Watch a trainer until it ends; False where the job was cancelled.

        Raises:
            TrainingTargetGone: a target was withdrawn.
        """
        while True:
            ended = trainer.status() is not None
            self._tell(taken, last_step(folder / LOG))
            if not self._store.is_wanted(taken.job):
                return False
            self._store.expect_targets(taken.job, request.births)
            if ended:
                return True
            self._wake.wait(_LOOK_SECONDS)
            self._wake.clear()
            if self._stop.is_set():
                raise Stopped

    def _tell(self, taken: TrainingJob, step: Step | None) -> None:
        if step is None or step.step == self._seen:
            return
        self._metrics.record_training_steps(max(0, step.step - self._seen))
        self._seen = step.step
        losses = [f"{name} {value:.3f}" for name, value in step.losses.items()]
        epochs = f"epoch {step.epoch:.1f} of {taken.wanted.epochs}"
        message = ", ".join([epochs, f"step {step.step} of {step.steps}", *losses])
        self._store.report_progress(taken.job, message, step.step / step.steps)
