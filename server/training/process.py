"""The trainer: `python -m server.training.process FOLDER`, a child of the control process.

Apart from it and at the lowest priority, so that neither policies nor requests wait for a training.
It ends when its standard input does: the control process is gone then, or wants it to stop. What it
has to say lies in the folder: checkpoint, log, the assistant, or the reason why there is none.
"""

from __future__ import annotations

import fcntl
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from guard.errors import GuardError, TrainingStopped
from server.log import configure_logging, fault_fields, get_logger
from server.training.request import LOCK, MATERIAL, OUTCOME, Request, read_private, write_private
from server.training.schemas import TrainingIn

STOPPED, REFUSED, FAULT = 3, 4, 5
_NICE = 19
_GRACE_SECONDS = 10.0
GIB = 2**30

log = get_logger("trainer")


def main(folder: Path) -> int:
    """Train what the folder asks for; gives the exit status, 0 when the assistant is in it."""
    configure_logging(capture=True)
    os.nice(_NICE)
    stopped = _watch_parent()
    # Where the control process was killed, its trainer may be at its last step yet.
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        _train(folder, stopped)
    except TrainingStopped:
        return STOPPED
    except GuardError as error:
        write_private(folder / OUTCOME, {"message": str(error)})
        return REFUSED
    except Exception as error:
        log.error("training_fault", **fault_fields(error))
        return FAULT
    finally:
        os.close(lock)
    return 0


def _train(folder: Path, stopped: Callable[[], bool]) -> None:
    # These take seconds to import: the parent is watched meanwhile.
    import torch

    from guard.uld.card import CARD
    from guard.uld.course import train_assistant

    request = Request.read(folder)
    if request is None:
        raise FileNotFoundError
    if (folder / CARD).exists():
        return
    torch.set_num_threads(request.threads)
    wanted = TrainingIn.model_validate(request.wanted)
    device = request.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    material = _material(folder, request, wanted, device)
    train_assistant(
        Path(request.base),
        material,
        wanted.plan(),
        folder,
        device=device,
        stop=stopped,
        checkpoint_seconds=request.checkpoint_seconds,
    )
    write_private(folder / OUTCOME, {"memory_gib": _memory(device)})


def _material(folder: Path, request: Request, wanted: TrainingIn, device: str) -> Any:
    """What lessons are made of: kept, so that a resumed training has the same."""
    from guard.uld.course import Material
    from guard.uld.lessons import Lesson
    from server.assistant_training import Sources, gather
    from server.schemas import TargetIn

    parts = ("pairs", "retain", "paraphrased", "perturbed", "stand_ins")
    kept = read_private(folder / MATERIAL)
    if kept is not None:
        lessons = {part: tuple(Lesson(*pair) for pair in kept.get(part, ())) for part in parts}
        return Material(**lessons, targets=tuple(kept["targets"]))
    rows = wanted.augmentation
    sources = Sources(
        targets=[TargetIn.model_validate(document) for document in request.documents],
        retain=[Lesson(pair.prompt, pair.answer) for pair in wanted.retain],
        paraphrased=[
            Lesson(other.prompt, other.answer or row.answer)
            for row in rows
            for other in row.paraphrases
        ],
        perturbed=[Lesson(row.prompt, wrong) for row in rows for wrong in row.perturbed],
        stand_ins=[
            Lesson(prompt, row.stand_in)
            for row in rows
            if row.stand_in
            for prompt in (row.prompt, *(other.prompt for other in row.paraphrases))
        ],
        by_model=wanted.augment == "model",
        own_answers=wanted.own_answers,
    )
    found = gather(sources, Path(request.base), wanted.plan(), device)
    made = {part: [(x.prompt, x.answer) for x in getattr(found, part)] for part in parts}
    write_private(folder / MATERIAL, {**made, "targets": found.targets})
    return found


def _memory(device: str) -> float:
    """The most memory it had, in GiB; on a GPU that of the GPU."""
    import torch

    if device != "cpu":
        return round(torch.cuda.max_memory_allocated(device) / GIB, 2)
    return round(_resident_peak() * 1024 / GIB, 2)


def _resident_peak() -> int:
    """The most memory this program had, in KiB.

    0 where the system does not say. Not `ru_maxrss`: that begins with what the process had that
    started this one.
    """
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return 0


def _watch_parent() -> Callable[[], bool]:
    """A question whether standard input has ended; a while after that the process ends anyway."""
    gone = threading.Event()

    def watch() -> None:
        os.read(sys.stdin.fileno(), 1)
        gone.set()
        threading.Event().wait(_GRACE_SECONDS)
        os._exit(STOPPED)

    threading.Thread(target=watch, name="parent", daemon=True).start()
    return gone.is_set


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
