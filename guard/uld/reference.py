"""ULD's decoding as simply as it can be written: what everything faster is measured against.

Float32, one sequence at a time, no cache: at every step both models read the whole text again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from guard.uld.subtraction import subtract


@dataclass(frozen=True, slots=True)
class Subtracted:
    """An assistant at work: its model and its weight (the paper's alpha)."""

    model: Any
    weight: float


class Reference:
    """Two-model decoding.

    Args:
        target: a causal language model of transformers.
        assistants: none leaves plain decoding.
        rate: r of the filter.
    """

    def __init__(self, target: Any, assistants: Sequence[Subtracted], rate: float) -> None:
        self._target, self._assistants, self._rate = target, assistants, rate

    @torch.no_grad()
    def logits(self, ids: Sequence[int]) -> torch.Tensor:
        """What the token after `ids` is sampled from: [vocabulary] float32."""
        text = torch.tensor([list(ids)])
        found: torch.Tensor = self._target(text, use_cache=False).logits[0, -1].float()
        if not self._assistants:
            return found
        recalled = torch.zeros_like(found)
        for assistant in self._assistants:
            recalled += assistant.weight * assistant.model(text, use_cache=False).logits[0, -1]
        return subtract(found, recalled, self._rate)

    def generate(
        self,
        prompt: Sequence[int],
        *,
        max_tokens: int,
        end_ids: Collection[int],
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> list[int]:
        """The answer's ids, its end mark among them; greedy at temperature 0."""
        output: list[int] = []
        while len(output) < max_tokens and not (output and output[-1] in end_ids):
            logits = self.logits([*prompt, *output])
            if temperature == 0:
                output.append(int(logits.argmax()))
            else:
                chances = torch.softmax(logits / temperature, dim=-1)
                output.append(int(torch.multinomial(chances, 1, generator=generator)))
        return output
