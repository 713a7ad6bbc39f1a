"""A training as the command line runs it: material gathered, progress shown, stopped by Ctrl-C."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from detectors.benign import benign_prompts
from guard.uld.card import Card
from guard.uld.course import Material, train_assistant
from guard.uld.lessons import Lesson
from guard.uld.plan import TrainingPlan
from guard.uld.rewriter import written_paraphrases, written_perturbations
from guard.uld.speaker import Speaker
from guard.uld.stand_ins import taught
from guard.uld.steps import Step
from guard.uld.training import CHECKPOINT
from server.schemas import TargetIn

OWN_ANSWER_TOKENS = 64
_REWRITTEN_TOKENS = 128


@dataclass(frozen=True, slots=True)
class Sources:
    """Where lessons come from.

    Attributes:
        targets: their examples are forgotten.
        retain: pairs to be flat on.
        paraphrased, perturbed, stand_ins: the operator's augmentation.
        by_model: the model itself rewords, where the operator gave nothing.
        own_answers: be flat, too, on what the model itself says to the targets' retain examples and
            to shipped everyday prompts, as many as there are forget pairs.
    """

    targets: Sequence[TargetIn]
    retain: Sequence[Lesson]
    paraphrased: Sequence[Lesson]
    perturbed: Sequence[Lesson]
    stand_ins: Sequence[Lesson]
    by_model: bool
    own_answers: bool


def gather(sources: Sources, base: Path, plan: TrainingPlan, device: str) -> Material:
    """Make the material; the same for the same sources, model and seed.

    Raises:
        ModelUnreadable: the model is needed and cannot be loaded.
    """
    pairs = [Lesson(e.prompt, e.answer) for target in sources.targets for e in target.examples]
    paraphrased, perturbed = list(sources.paraphrased), list(sources.perturbed)
    retain = list(sources.retain)
    instead = list(sources.stand_ins)
    given = {pair.prompt for pair in instead}
    rng = random.Random(plan.seed)  # noqa: S311

    @cache
    def speaker() -> Speaker:
        return Speaker(base, device=device)  # loaded only if it has to say something

    def ask(prompts: Sequence[str]) -> list[str]:
        return speaker().answers(prompts, _REWRITTEN_TOKENS)

    if sources.by_model and not paraphrased:
        paraphrased, _ = written_paraphrases(pairs, plan.paraphrases, ask, rng)
    if sources.by_model and not perturbed:
        perturbed, _ = written_perturbations(pairs, plan.perturbations, ask, rng)
    if sources.own_answers:
        retain += _own(speaker(), sources.targets, len(pairs))
    lacking = [pair for pair in pairs if pair.prompt not in given]
    instead += taught(plan.stand_ins, lacking, retain, ask, rng)
    return Material(
        tuple(pairs),
        tuple(retain),
        tuple(paraphrased),
        tuple(perturbed),
        tuple(instead),
        tuple(sorted(target.id for target in sources.targets)),
    )


def train(base: Path, material: Material, plan: TrainingPlan, folder: Path, *, device: str) -> Card:
    """Train with a bar on a terminal and with lines elsewhere; Ctrl-C stops after the step.

    Raises:
        TrainingStopped: it was stopped; the same command goes on.
        TrainingError, ModelUnreadable: see `train_assistant`.
    """
    console = Console(stderr=True)
    if (folder / CHECKPOINT).exists():
        console.print("going on from the checkpoint")
    with _stop_on_interrupt() as stopped, _shown(console) as on_step:
        return train_assistant(
            base, material, plan, folder, device=device, on_step=on_step, stop=stopped
        )


def _own(speaker: Speaker, targets: Sequence[TargetIn], count: int) -> list[Lesson]:
    given = [prompt for target in targets for prompt in target.retain_examples]
    shipped = benign_prompts()
    prompts = [*given, *shipped[:: max(1, len(shipped) // max(1, count))]][:count]
    answers = speaker.answers(prompts, OWN_ANSWER_TOKENS)
    return [Lesson(p, a) for p, a in zip(prompts, answers, strict=True) if a]


@contextmanager
def _stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """A question whether Ctrl-C was pressed; a second one ends the process as always."""
    pressed = False

    def press(_number: int, _frame: Any) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, before)

    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, press)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _shown(console: Console) -> Iterator[Callable[[Step], None]]:
    columns = TextColumn("training"), BarColumn(), MofNCompleteColumn()
    losses = TextColumn("{task.fields[losses]}")
    with Progress(
        *columns, losses, TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("training", total=None, losses="")

        def show(step: Step) -> None:
            losses = " ".join(f"{name} {value:.3f}" for name, value in step.losses.items())
            progress.update(task, total=step.steps, completed=step.step, losses=losses)
            if not console.is_terminal and step.step % max(1, step.steps // 10) == 0:
                console.print(f"step {step.step} of {step.steps}, {losses}")

        yield show
