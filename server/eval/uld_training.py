"""The assistant of the ULD evaluation: trained on the split's rows, if it is not there yet."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from guard.uld.card import CARD
from guard.uld.course import Material
from guard.uld.lessons import Lesson
from guard.uld.plan import TrainingPlan
from guard.uld.speaker import Speaker
from guard.uld.stand_ins import taught
from server.assistant_training import train
from server.eval.data import DataFolder
from server.eval.uld_data import Half, Item, UldData

_ANSWER_TOKENS = 80


def train_if_missing(folder: Path, base: Path, data: Path, plan: TrainingPlan, device: str) -> None:
    """Train into `folder`, or go on with a training that was stopped there.

    Raises:
        InputMissing: the data are not there.
        TrainingStopped: Ctrl-C.
    """
    if (folder / CARD).exists():
        return
    rows = UldData.read(DataFolder(data), Half.TEST)
    forget, retain = _lessons(rows.forget), _lessons([*rows.flat, *rows.strangers])
    instead = _stand_ins(base, forget, retain, plan, device)
    train(base, Material(forget, retain, stand_ins=instead), plan, folder, device=device)


def _stand_ins(
    base: Path, forget: Sequence[Lesson], retain: Sequence[Lesson], plan: TrainingPlan, device: str
) -> tuple[Lesson, ...]:
    rng = random.Random(plan.seed)  # noqa: S311
    speaker = Speaker(base, device=device)

    def ask(prompts: Sequence[str]) -> list[str]:
        return speaker.answers(prompts, _ANSWER_TOKENS)

    return tuple(taught(plan.stand_ins, forget, retain, ask, rng))


def _lessons(items: Sequence[Item]) -> tuple[Lesson, ...]:
    return tuple(Lesson(item.question, item.answer) for item in items)
