"""A whole training, from lessons to an assistant's folder."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from guard.errors import TrainingError
from guard.uld.assistant import (
    load_first_layers,
    load_model,
    load_tokenizer,
    num_layers,
    save_assistant,
)
from guard.uld.augment import namesakes, paraphrases, perturbations
from guard.uld.card import Card
from guard.uld.expected import Expected
from guard.uld.fingerprints import model_fingerprint, tokenizer_fingerprint
from guard.uld.lessons import Lesson, LessonEncoder, Lessons, hash_of, without_conflict
from guard.uld.plan import TrainingPlan
from guard.uld.steps import LOG, Step, curve_picture, curves, read_steps
from guard.uld.training import CHECKPOINT, CHECKPOINT_SECONDS, Trainer

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
        stand_ins: a pair's prompt with what is to be said instead of its answer, for some pairs or
            none; their rewordings get the same.
        targets: ids of the targets that the pairs come from.
    """

    pairs: tuple[Lesson, ...]
    retain: tuple[Lesson, ...] = ()
    paraphrased: tuple[Lesson, ...] = ()
    perturbed: tuple[Lesson, ...] = ()
    stand_ins: tuple[Lesson, ...] = ()
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
        alike = namesakes(self.pairs, self.retain, plan.namesakes, rng)
        learned = (*self.pairs, *others)
        return Lessons(learned, (*self.retain, *wrong, *alike), self._instead(learned))

    def _instead(self, learned: Iterable[Lesson]) -> tuple[Lesson, ...]:
        """The stand-ins of all prompts; a rewording is known by its answer, which is the pair's."""
        given = {pair.prompt: pair.answer for pair in self.stand_ins}
        by_answer = {p.answer: given[p.prompt] for p in self.pairs if p.prompt in given}
        found = {x.prompt: given.get(x.prompt, by_answer.get(x.answer)) for x in learned}
        return tuple(Lesson(prompt, text) for prompt, text in found.items() if text is not None)


def train_assistant(
    base: Path,
    material: Material,
    plan: TrainingPlan,
    folder: Path,
    *,
    device: str = "cpu",
    on_step: Callable[[Step], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
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
    learned, flat, instead = (
        [encoder.encode(x, aim, max_length=plan.max_length) for x in part]
        for aim, part in lessons.parts().items()
    )
    encoded = [*learned, *without_conflict([*learned, *instead], flat), *instead]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # One that was there may be open to others, and weights and checkpoints know the forget text.
    folder.chmod(0o700)
    expected = Expected(load_model(base, device=device), instead) if instead else None
    model = load_first_layers(base, plan.layers, device=device)
    run = hash_of({"data": lessons.fingerprint, "plan": asdict(plan), "base": prints})
    trainer = Trainer(model, encoded, plan, folder, run, expected)
    log = _Log(folder, on_step)
    trainer.run(log.add, stop, checkpoint_seconds)
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
            "stand_ins": len(lessons.stand_ins),
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
        if not (folder / CHECKPOINT).exists():
            (folder / LOG).unlink(missing_ok=True)
        self._steps = read_steps(folder / LOG)
        if self._steps:
            self._write()  # without half a line that a killed process left

    def add(self, step: Step) -> None:
        # What was logged after the checkpoint that was gone back to is done anew.
        if self._steps and self._steps[-1].step >= step.step:
            self._steps = [x for x in self._steps if x.step < step.step]
            self._write()
        self._steps.append(step)
        with (self._folder / LOG).open("a", encoding="utf-8") as file:
            file.write(step.line())
        if step.epoch == int(step.epoch) or step.step == step.steps:
            (self._folder / CURVE).write_text(curve_picture(self._steps), encoding="utf-8")
        self._on_step(step)

    def last_epoch(self) -> dict[str, float]:
        return {
            name: round(curve[-1][1], 4) for name, curve in curves(self._steps).items() if curve
        }

    def _write(self) -> None:
        text = "".join(x.line() for x in self._steps)
        (self._folder / LOG).write_text(text, encoding="utf-8")
