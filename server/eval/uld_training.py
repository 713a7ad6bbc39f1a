"""The assistant of the ULD evaluation: trained on the split's rows, if it is not there yet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from guard.uld.card import CARD
from guard.uld.course import Material
from guard.uld.lessons import Lesson
from guard.uld.plan import TrainingPlan
from server.assistant_training import train
from server.eval.data import DataFolder
from server.eval.uld_data import Half, Item, UldData


def train_if_missing(folder: Path, base: Path, data: Path, plan: TrainingPlan, device: str) -> None:
    """Train into `folder`, or go on with a training that was stopped there.

    Raises:
        InputMissing: the data are not there.
        TrainingStopped: Ctrl-C.
    """
    if (folder / CARD).exists():
        return
    rows = UldData.read(DataFolder(data), Half.TEST)
    material = Material(_lessons(rows.forget), _lessons([*rows.flat, *rows.strangers]))
    train(base, material, plan, folder, device=device)


def _lessons(items: Sequence[Item]) -> tuple[Lesson, ...]:
    return tuple(Lesson(item.question, item.answer) for item in items)
