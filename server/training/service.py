"""The trainings' parts, put together for the control process, and what the routes ask of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from guard.errors import GuardError
from guard.uld.steps import Step
from server.assistants import Assistants
from server.database import Database, Write
from server.errors import InvalidField, NotFound, NotReady
from server.metrics.control import ControlMetrics
from server.records import JobRecord
from server.settings import Settings
from server.training.schemas import TrainingIn
from server.training.store import TrainingStore
from server.training.worker import IDLE_SECONDS, TrainingWorker


@dataclass(frozen=True, slots=True)
class Trainings:
    """What the routes work on; `model` is the served one's name."""

    store: TrainingStore
    worker: TrainingWorker
    assistants: Assistants
    model: str | None

    def request(self, wanted: TrainingIn) -> JobRecord:
        """Store a training that can be done.

        Raises:
            Conflict: the id is taken, also by an assistant that is being trained.
            InvalidField: a target is not there, or the plan does not suit the model.
            NotReady: no model is known.
        """
        self.assistants.expect_free(wanted.id)
        try:
            wanted.plan().check(_depth(base_folder(self.model)))
        except GuardError as error:
            raise InvalidField(str(error), param="layers") from None
        job = self.store.create(wanted)
        self.worker.notify()
        return job

    def steps(self, assistant_id: str) -> list[Step]:
        """The log of an assistant's training, whether it is registered or not.

        Raises:
            NotFound: there is none.
        """
        if self.assistants.holds(assistant_id):
            found = self.assistants.steps(assistant_id)
        else:
            job_id = self.store.newest(assistant_id)
            if job_id is None:
                raise NotFound("There is no such assistant.")
            found = self.worker.steps(job_id)
        if not found:
            raise NotFound("There is no log of this assistant's training.")
        return found


def assemble_trainings(
    settings: Settings,
    database: Database,
    assistants: Assistants,
    metrics: ControlMetrics,
    model: str | None,
    *,
    write: Write | None = None,
    idle_seconds: float = IDLE_SECONDS,
    checkpoint_seconds: float = 60.0,
) -> Trainings:
    """Everything about trainings; the worker is not started yet.

    `write` begins the worker's transactions that may write, by default the database's own.
    """
    worker = TrainingWorker(
        settings,
        TrainingStore(database, write),
        assistants,
        lambda: base_folder(model),
        metrics=metrics,
        idle_seconds=idle_seconds,
        checkpoint_seconds=checkpoint_seconds,
    )
    return Trainings(TrainingStore(database), worker, assistants, model)


def base_folder(model: str | None) -> Path:
    """The served model's files.

    Raises:
        NotReady: no model is known.
        ModelUnreadable: there is no such model.
    """
    from guard.uld.fingerprints import model_folder

    if model is None:
        raise NotReady("No model is served that an assistant could be trained for.")
    return model_folder(model)


def _depth(folder: Path) -> int:
    """How many layers a model has; loads transformers, which takes seconds, only if it must."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        stated = config.get("text_config", config)["num_hidden_layers"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        stated = None
    if isinstance(stated, int):
        return stated
    from guard.uld.assistant import num_layers

    return num_layers(folder)
