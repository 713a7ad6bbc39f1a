"""A whole training, from lessons to an assistant's folder."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from guard.errors import TrainingError
from guard.uld.assistant import (
    load_first_layers,
    load_tokenizer,
    num_layers,
    save_assistant,
)
from guard.uld.augment import paraphrases, perturbations
from guard.uld.card import Card
from guard.uld.curve import loss_svg
from guard.uld.fingerprints import model_fingerprint, tokenizer_fingerprint
from guard.uld.lessons import Lesson, LessonEncoder, Lessons, hash_of
from guard.uld.plan import TrainingPlan
from guard.uld.training import CHECKPOINT, Step, Trainer

LOG = "log.jsonl"
CURVE = "loss.svg"
_VERSIONS = ("lethegate", "torch", "transformers")


@dataclass(frozen=True, slots=True)
class Material:
    """What lessons are made of.

    Attributes:
        pairs: the forget pairs.
        retain: pairs of which the assistant is to know nothing.
        paraphrased, perturbed: other wordings and wrong answers from elsewhere; where they are
            empty, templates make them.
        targets: ids of the targets that the pairs come from.
    """

    pairs: tuple[Lesson, ...]
    retain: tuple[Lesson, ...] = ()
    paraphrased: tuple[Lesson, ...] = ()
    perturbed: tuple[Lesson, ...] = ()
    targets: tuple[str, ...] = ()

    def lessons(self, plan: TrainingPlan) -> Lessons:
        """The paper's D'_f and D'_r; the same for the same seed.

        Raises:
            TrainingError: there is nothing to forget, or nothing to be flat on.
        """
        rng = random.Random(plan.seed)  # noqa: S311
        others = self.paraphrased or tuple(paraphrases(self.pairs, plan.paraphrases, rng))
        wrong = self.perturbed or tuple(perturbations(self.pairs, plan.perturbations, rng))
        if not self.pairs:
            raise TrainingError("there are no pairs of prompt and answer to forget")
        if not (self.retain or wrong):
            raise TrainingError("there is nothing the assistant is to stay flat on")
        return Lessons((*self.pairs, *others), (*self.retain, *wrong))


def train_assistant(
    base: Path,
    material: Material,
    plan: TrainingPlan,
    folder: Path,
    *,
    device: str = "cpu",
    on_step: Callable[[Step], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> Card:
    """Train an assistant for the model in `base`, or go on where a training was stopped.

    Leaves in `folder`: config and weights, card, log (JSON Lines) and picture of the losses.

    Raises:
        TrainingError: plan or material do not do, or the folder holds another training.
        TrainingStopped: `stop` said so; the next call goes on.
        ModelUnreadable: transformers cannot load the model.
    """
    lessons = material.lessons(plan)
    depth = num_layers(base)
    plan.check(depth)
    tokenizer = load_tokenizer(base)
    prints = model_fingerprint(base), tokenizer_fingerprint(tokenizer)
    encoder = LessonEncoder(tokenizer)
    encoded = [
        encoder.encode(lesson, forget=forget, max_length=plan.max_length)
        for forget, part in ((True, lessons.forget), (False, lessons.flat))
        for lesson in part
    ]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    model = load_first_layers(base, plan.layers, device=device)
    run = hash_of({"data": lessons.fingerprint, "plan": asdict(plan), "base": prints})
    trainer = Trainer(model, encoded, plan, folder, run)
    log = _Log(folder, on_step)
    trainer.run(log.add, stop)
    trainer.finish()
    card = Card(
        base=prints[0],
        tokenizer=prints[1],
        layers=plan.layers,
        base_layers=depth,
        data={
            "sha256": lessons.fingerprint,
            "forget": len(lessons.forget),
            "flat": len(lessons.flat),
        },
        plan={**asdict(plan), "weights": "lora" if trainer.lora else "full"},
        metrics=log.last_epoch(),
        targets=list(material.targets),
        versions={name: version(name) for name in _VERSIONS},
    )
    save_assistant(model, folder)
    card.write(folder)
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return card


class _Log:
    """A line per step, and a picture of the epochs' means."""

    def __init__(self, folder: Path, on_step: Callable[[Step], None]) -> None:
        self._folder, self._on_step = folder, on_step
        self._lines = self._read()

    def add(self, step: Step) -> None:
        # What was logged after the checkpoint that was gone back to is done anew.
        if self._lines and self._lines[-1].step >= step.step:
            self._lines = [x for x in self._lines if x.step < step.step]
            text = "".join(json.dumps(asdict(x)) + "\n" for x in self._lines)
            (self._folder / LOG).write_text(text, encoding="utf-8")
        self._lines.append(step)
        with (self._folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(step)) + "\n")
        if step.epoch == int(step.epoch) or step.step == step.steps:
            (self._folder / CURVE).write_text(loss_svg(self._curves()), encoding="utf-8")
        self._on_step(step)

    def last_epoch(self) -> dict[str, float]:
        return {name: round(curve[-1][1], 4) for name, curve in self._curves().items() if curve}

    def _curves(self) -> dict[str, list[tuple[float, float]]]:
        found: dict[str, list[tuple[float, float]]] = {}
        for name in ("forget", "uniform"):
            by_epoch: dict[int, list[float]] = {}
            for line in self._lines:
                value = getattr(line, name)
                if value is not None:
                    by_epoch.setdefault(-int(-line.epoch // 1), []).append(value)
            found[name] = [(float(e), _mean(values)) for e, values in sorted(by_epoch.items())]
        return found

    def _read(self) -> list[Step]:
        if not (self._folder / CHECKPOINT).exists():
            (self._folder / LOG).unlink(missing_ok=True)
            return []
        try:
            lines = (self._folder / LOG).read_text(encoding="utf-8").splitlines()
            return [Step(**json.loads(line)) for line in lines]
        except (OSError, ValueError, TypeError):
            return []


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
