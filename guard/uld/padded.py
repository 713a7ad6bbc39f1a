"""Lessons side by side as one batch of token ids, and where their answers' logits are in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch

from guard.uld.lessons import EncodedLesson


@dataclass(frozen=True, slots=True)
class Padded:
    """A batch, padded on the right: attention is causal, so nothing before it sees the padding.

    Attributes:
        ids: [lessons, width] int64.
        positions: those that a model is to give logits for, [positions] int64: from before the
            first answer's first token to before the last token of all.
    """

    ids: torch.Tensor
    positions: torch.Tensor

    @classmethod
    def of(cls, lessons: Sequence[EncodedLesson], device: torch.device) -> Self:
        """Pad lessons, of which there is at least one."""
        width = max(map(len, lessons))
        rows = [[*x.prompt, *x.answer, *[0] * (width - len(x))] for x in lessons]
        first = min(len(x.prompt) for x in lessons) - 1
        return cls(torch.tensor(rows, device=device), torch.arange(first, width - 1, device=device))

    @property
    def following(self) -> torch.Tensor:
        """The token after each position, [lessons, positions]."""
        return self.ids[:, -self.positions.shape[0] :]

    def answer(self, lesson: EncodedLesson) -> slice:
        """Which of the positions are before an answer's tokens."""
        begin = len(lesson.prompt) - 1 - (self.ids.shape[1] - 1 - self.positions.shape[0])
        return slice(begin, begin + len(lesson.answer))
