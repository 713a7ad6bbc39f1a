"""A training on disk: what the control process hands to the trainer, and what that hands back.

The folder is its owner's only and is deleted when the training has ended, but for the log.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from guard.uld.steps import LOG

REQUEST = "request.json"
MATERIAL = "material.json"
OUTCOME = "outcome.json"
LOCK = "lock"


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be trained.

    Attributes:
        wanted: a TrainingIn as JSON.
        documents: the targets, as JSON.
        births: when each was registered, seconds since the epoch.
        base: folder of the served model.
        device: auto, cpu, cuda or cuda:N.
        threads: of the CPU.
        checkpoint_seconds: time between checkpoints.
    """

    wanted: dict[str, Any]
    documents: list[dict[str, Any]]
    births: dict[str, float]
    base: str
    device: str
    threads: int
    checkpoint_seconds: float

    def write(self, folder: Path) -> None:
        """Write it into a folder, which is made."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(folder / REQUEST, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Request | None:
        """The request in a folder; None where there is none."""
        found = read_private(folder / REQUEST)
        return None if found is None else cls(**found)


def write_private(path: Path, value: Any) -> None:
    """Write JSON for the owner's eyes, whole or not at all."""
    draft = path.with_suffix(".draft")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def read_private(path: Path) -> Any:
    """JSON that `write_private` wrote; None where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def discard(folder: Path, *, keep_log: bool) -> None:
    """Delete a training's files; the log, which holds no text, may stay."""
    if not keep_log or not (folder / LOG).is_file():
        shutil.rmtree(folder, ignore_errors=True)
        return
    for path in folder.iterdir():
        if path.name == LOG:
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
