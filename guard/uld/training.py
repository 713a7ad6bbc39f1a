"""Training an assistant: deterministic, resumable at any step, stopped without losing anything."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from guard.errors import TrainingError, TrainingStopped
from guard.uld.assistant import layers_of, norm_of
from guard.uld.checkpoint import Parameters, load_checkpoint, save_checkpoint
from guard.uld.expected import Expected
from guard.uld.lessons import Aim, EncodedLesson
from guard.uld.lora import add_lora, merge_lora
from guard.uld.losses import forget_loss, stand_in_loss, uniform_loss
from guard.uld.padded import Padded
from guard.uld.plan import FULL_UP_TO, TrainingPlan, Weights
from guard.uld.steps import Step

CHECKPOINT = "checkpoint.safetensors"
CHECKPOINT_SECONDS = 60.0
_CHUNK = 8  # batches among which lessons are sorted by length, so that little is padding


class Trainer:
    """Trains the layers of an assistant in place.

    Args:
        model: from `load_first_layers`.
        lessons: of every aim, encoded.
        folder: where checkpoints go.
        run: identity of this training; a checkpoint of another one is refused.
        expected: the target's logits at the stand-ins; needed if there are any.
    """

    def __init__(
        self,
        model: Any,
        lessons: Sequence[EncodedLesson],
        plan: TrainingPlan,
        folder: Path,
        run: str,
        expected: Expected | None = None,
    ) -> None:
        self._model, self._plan, self._run = model, plan, run
        self._expected = expected
        self._kinds = [[x for x in lessons if x.aim is aim] for aim in Aim]
        self._path = folder / CHECKPOINT
        layers = layers_of(model)
        torch.manual_seed(plan.seed)
        self.lora = plan.weights is Weights.LORA or (
            plan.weights is Weights.AUTO
            and sum(p.numel() for p in layers.parameters()) > FULL_UP_TO
        )
        if self.lora:
            add_lora(layers, plan.rank, plan.lora_alpha, plan.lora_dropout)
        else:
            layers.requires_grad_(True)
            norm = norm_of(model)
            if norm is not None:
                norm.requires_grad_(True)
        self._parameters: Parameters = {
            name: parameter
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }
        self._optimizer = _optimizer(self._parameters, plan)
        self._epoch = -1
        self._batches: list[list[EncodedLesson]] = []
        self.batches_per_epoch = -(-len(lessons) // plan.batch)
        self.steps = plan.epochs * self.batches_per_epoch

    def run(
        self,
        on_step: Callable[[Step], None] = lambda _: None,
        stop: Callable[[], bool] = lambda: False,
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
    ) -> None:
        """Go on from the checkpoint, if there is one, to the end.

        Raises:
            TrainingStopped: `stop` said so; the checkpoint is written.
            TrainingError: the checkpoint is of another training, or a loss is not finite.
        """
        done = load_checkpoint(self._path, self._parameters, self._optimizer, self._run)
        saved = time.monotonic()
        self._model.train()
        for step in range(done + 1, self.steps + 1):
            if stop():
                self._save(step - 1)
                raise TrainingStopped(f"stopped after {step - 1} of {self.steps} steps")
            on_step(self._finite(self._step(step)))
            if time.monotonic() - saved > checkpoint_seconds:
                self._save(step)
                saved = time.monotonic()
        self._save(self.steps)
        self._model.eval()

    def finish(self) -> None:
        """Make the model what is served: LoRA merged, nothing to be trained any more."""
        if self.lora:
            merge_lora(layers_of(self._model))
        self._model.requires_grad_(False)

    def _finite(self, step: Step) -> Step:
        if not all(map(math.isfinite, step.losses.values())):
            self._path.unlink(missing_ok=True)
            raise TrainingError(f"the loss of step {step.step} is not finite: lower learning_rate")
        return step

    def _save(self, step: int) -> None:
        save_checkpoint(self._path, self._parameters, self._optimizer, self._run, step)

    def _step(self, step: int) -> Step:
        began = time.monotonic()
        epoch, number = divmod(step - 1, self.batches_per_epoch)
        if self._epoch != epoch:
            seed = f"{self._plan.seed}:{epoch}"
            self._batches = list(batches(self._kinds, self._plan.batch, seed))
            self._epoch = epoch
        rate = self._rate(step)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(self._plan.seed * 1_000_003 + step)  # dropout, the same after a resume
        losses = self._losses(self._batches[number])
        weights = {Aim.FLAT: self._plan.retain_weight}
        terms = [loss * weights.get(aim, 1.0) for aim, loss in losses.items()]
        torch.stack(terms).sum().backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._parameters.values(), self._plan.max_gradient)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return Step(
            step,
            self.steps,
            step / self.batches_per_epoch,
            _value(losses.get(Aim.FORGET)),
            _value(losses.get(Aim.FLAT)),
            rate,
            round(time.monotonic() - began, 4),
            _value(losses.get(Aim.STAND_IN)),
        )

    def _losses(self, batch: Sequence[EncodedLesson]) -> dict[Aim, torch.Tensor]:
        """The losses of those aims that the batch has lessons of."""
        device = self._model.device
        padded = Padded.of(batch, device)
        spoken = torch.zeros(padded.following.shape, dtype=torch.bool)
        for row, lesson in enumerate(batch):
            spoken[row, padded.answer(lesson)] = True
        # Entered anew for every step: within one context the casts of the weights are kept.
        with torch.autocast(device.type, torch.bfloat16, enabled=self._plan.bfloat16):
            read = self._model(padded.ids, use_cache=False, logits_to_keep=padded.positions)
        found = {}
        for aim in Aim:
            lessons = [x for x in batch if x.aim is aim and x.answer]
            if lessons:
                rows = torch.tensor([x.aim is aim for x in batch])[:, None]
                chosen = (spoken & rows).to(device)
                tokens = padded.following[chosen]
                found[aim] = self._loss(aim, lessons, read.logits[chosen], tokens)
        return found

    def _loss(
        self,
        aim: Aim,
        lessons: Sequence[EncodedLesson],
        logits: torch.Tensor,
        tokens: torch.Tensor,
    ) -> torch.Tensor:
        if aim is Aim.FORGET:
            return forget_loss(logits, tokens)
        if aim is Aim.FLAT:
            return uniform_loss(logits)
        assert self._expected is not None
        return stand_in_loss(self._expected.logits(lessons, logits.device), logits, tokens)

    def _rate(self, step: int) -> float:
        warm = max(1, int(self._plan.warmup * self.steps))
        if step <= warm:
            return self._plan.learning_rate * step / warm
        return self._plan.learning_rate * (self.steps - step + 1) / max(1, self.steps - warm)


def _value(loss: torch.Tensor | None) -> float | None:
    return None if loss is None else round(float(loss.detach()), 5)


def batches(
    kinds: Sequence[Sequence[EncodedLesson]], size: int, seed: str
) -> Iterator[list[EncodedLesson]]:
    """One epoch's batches, all kinds spread evenly over them, lessons of like length together."""
    rng = random.Random(seed)  # noqa: S311
    kinds = [rng.sample(kind, len(kind)) for kind in kinds]
    total = -(-sum(map(len, kinds)) // size)
    places = list(range(total))
    found: list[list[EncodedLesson]] = [[] for _ in places]
    chunks = [places[i : i + _CHUNK] for i in range(0, total, _CHUNK)]
    for kind in kinds:
        # Lesson i of n belongs to place i * total / n.
        for chunk in chunks:
            low = len(kind) * chunk[0] // total
            high = len(kind) * (chunk[-1] + 1) // total
            part = sorted(kind[low:high], key=len)
            for offset, place in enumerate(chunk):
                begin = len(part) * offset // len(chunk)
                end = len(part) * (offset + 1) // len(chunk)
                found[place] += part[begin:end]
    rng.shuffle(found)
    yield from (batch for batch in found if batch)


def _optimizer(parameters: Parameters, plan: TrainingPlan) -> torch.optim.Optimizer:
    matrices = [p for p in parameters.values() if p.dim() > 1]
    vectors = [p for p in parameters.values() if p.dim() == 1]
    groups = [
        {"params": matrices, "weight_decay": plan.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=plan.learning_rate)
