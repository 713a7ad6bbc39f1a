"""Subtraction in a batch: what rows have their assistants recall is taken off their logits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from guard.errors import AssistantFull, GuardError
from guard.uld.decoder import Decoder
from guard.uld.rules import UldRule
from guard.uld.slots import Seat
from guard.uld.subtraction import subtract

Owner = TypeVar("Owner")


@dataclass(slots=True, eq=False)
class Recall:
    """One assistant at work for a request."""

    decoder: Decoder
    weight: float
    seat: Seat = field(default_factory=Seat)


@dataclass(slots=True, eq=False)
class Subtraction:
    """What is subtracted from a request's logits.

    `text` is the prompt with as much of the output as was read; `output` the engine's live list.
    """

    prompt_length: int
    text: list[int]
    output: Sequence[int]
    recalls: list[Recall]
    rate: float

    @classmethod
    def of(
        cls,
        rules: Iterable[UldRule],
        load: Callable[[str], Decoder],
        prompt: Sequence[int],
        output: Sequence[int],
    ) -> Subtraction | None:
        """The subtraction of a request under its targets' rules; None where there is none.

        An assistant that several targets name is subtracted once, with the largest weight; of the
        filters the widest holds.

        Raises:
            AssistantError: one cannot be loaded.
        """
        weights: dict[str, float] = {}
        rate = 0.0
        for rule in rules:
            weights[rule.assistant] = max(rule.weight, weights.get(rule.assistant, 0.0))
            rate = max(rate, rule.rate)
        recalls = [Recall(load(digest), weight) for digest, weight in sorted(weights.items())]
        if not recalls:
            return None
        return cls(len(prompt), list(prompt), output, recalls, rate)

    def release(self) -> None:
        """The request has left the batch."""
        for recall in self.recalls:
            recall.decoder.release(recall.seat)

    def read(self) -> None:
        """Take in what was generated since, and make room for it.

        Raises:
            AssistantFull: there is no room.
            GuardError: the engine has not said what it sampled.
        """
        self.text += self.output[len(self.text) - self.prompt_length :]
        if not self.text or self.text[-1] < 0:
            raise GuardError("a token is not known")
        for recall in self.recalls:
            recall.decoder.grow(recall.seat, len(self.text))


def subtract_rows(
    logits: torch.Tensor,
    rows: Sequence[tuple[int, Owner, Subtraction]],
    fail: Callable[[Owner, Exception], None],
) -> int:
    """Change the rows in place; gives how many. logits: [rows, vocabulary] float32.

    `fail` is told whose row could not be changed, and why.
    """
    ready: list[tuple[int, Owner, Subtraction]] = []
    for row, owner, subtraction in rows:
        try:
            subtraction.read()
            ready.append((row, owner, subtraction))
        except (AssistantFull, GuardError) as error:
            fail(owner, error)
    if not ready:
        return 0
    recalled = torch.zeros(len(ready), logits.shape[1], device=logits.device)
    for decoder, members in _by_decoder(ready).items():
        found = decoder.step(
            [recall.seat for _, recall in members], [ready[place][2].text for place, _ in members]
        )
        weights = torch.tensor([recall.weight for _, recall in members], device=logits.device)
        places = torch.tensor([place for place, _ in members], device=logits.device)
        recalled.index_add_(0, places, weights[:, None] * found.to(logits.device))
    for rate in {subtraction.rate for _, _, subtraction in ready}:
        places_ = [place for place, found in enumerate(ready) if found[2].rate == rate]
        at = torch.tensor([ready[place][0] for place in places_], device=logits.device)
        logits[at] = subtract(logits[at], recalled[places_], rate)
    return len(ready)


def _by_decoder(
    ready: Sequence[tuple[int, Owner, Subtraction]],
) -> dict[Decoder, list[tuple[int, Recall]]]:
    found: dict[Decoder, list[tuple[int, Recall]]] = {}
    for place, (_, _, subtraction) in enumerate(ready):
        for recall in subtraction.recalls:
            found.setdefault(recall.decoder, []).append((place, recall))
    return found
