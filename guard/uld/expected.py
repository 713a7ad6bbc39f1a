"""What the target model expects at each token of the stand-ins, kept small.

A training needs the target's logits there, but not the target: they are read once and kept as the
few best of each token and what the others have on average. (All of them would be gigabytes; the
model beside the assistant would cost its memory and N/K of the time of every step.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from guard.uld.lessons import EncodedLesson
from guard.uld.padded import Padded

BEST = 64
_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class _Kept:
    """Of one lesson: values and ids [tokens, best], rest [tokens, 1], float32 on the CPU."""

    values: torch.Tensor
    ids: torch.Tensor
    rest: torch.Tensor


class Expected:
    """The target's logits at the answers of some lessons.

    Args:
        target: of transformers; read here only.
        lessons: whose logits will be asked for.
        best: how many logits of a token are kept as they are.
    """

    def __init__(self, target: Any, lessons: Sequence[EncodedLesson], best: int = BEST) -> None:
        self._vocabulary = int(target.get_output_embeddings().weight.shape[0])
        self._best = min(best, self._vocabulary - 1)
        self._kept: dict[EncodedLesson, _Kept] = {}
        order = sorted(lessons, key=len)
        for begin in range(0, len(order), _AT_ONCE):
            self._read(target, order[begin : begin + _AT_ONCE])

    def logits(self, lessons: Sequence[EncodedLesson], device: torch.device) -> torch.Tensor:
        """[tokens of all answers, vocabulary] float32 on a device, answers after each other.

        What is not among a token's best has their average (of exp).

        Raises:
            KeyError: a lesson is none of those that were read.
        """
        kept = [self._kept[lesson] for lesson in lessons]
        values, ids, rest = (
            torch.cat([getattr(one, name) for one in kept]).to(device)
            for name in ("values", "ids", "rest")
        )
        return rest.expand(-1, self._vocabulary).scatter(1, ids.long(), values)

    @torch.no_grad()
    def _read(self, target: Any, batch: Sequence[EncodedLesson]) -> None:
        padded = Padded.of(batch, target.device)
        read = target(padded.ids, use_cache=False, logits_to_keep=padded.positions)
        for logits, lesson in zip(read.logits, batch, strict=True):
            found = logits[padded.answer(lesson)].float()
            values, places = found.topk(self._best, dim=-1)
            others = found.scatter(1, places, float("-inf")).logsumexp(-1, keepdim=True)
            rest = others - math.log(self._vocabulary - self._best)
            self._kept[lesson] = _Kept(values.cpu(), places.int().cpu(), rest.cpu())
