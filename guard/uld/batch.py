"""Greedy decoding of many prompts at once, with a cache: for evaluations and own answers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch

from guard.uld.subtraction import subtract

# logits [rows, vocabulary], outputs so far per row -> logits to choose from
Edit = Callable[[torch.Tensor, Sequence[Sequence[int]]], torch.Tensor]


class Reader:
    """One model reading a batch of texts token by token; padded on the left."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._past: Any = None
        self._mask = torch.zeros(0)

    @torch.no_grad()
    def begin(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Read the prompts; gives the logits after each: [rows, vocabulary] float32."""
        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts])
        self._mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
        positions = (self._mask.cumsum(1) - 1).clamp(min=0)
        return self._read(ids, positions)

    @torch.no_grad()
    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """Read one more token in each row; gives the logits after it, as `begin` does."""
        positions = self._mask.sum(1, keepdim=True)
        self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], dim=1)
        return self._read(torch.tensor(tokens)[:, None], positions)

    def _read(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        device = self._model.device
        read = self._model(
            input_ids=ids.to(device),
            attention_mask=self._mask.to(device),
            position_ids=positions.to(device),
            past_key_values=self._past,
            use_cache=True,
            logits_to_keep=1,
        )
        self._past = read.past_key_values
        logits: torch.Tensor = read.logits[:, -1].float().cpu()
        return logits


def answer_all(
    target: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    end_ids: Collection[int],
    assistant: Any = None,
    weights: Sequence[float] = (),
    rate: float = 0.01,
    edit: Edit | None = None,
) -> list[list[int]]:
    """Greedy answers of one batch, without their end marks.

    Args:
        assistant: subtracted with its weight per row; rows with weight 0 are plain.
        edit: changes the logits of a step after the subtraction.
    """
    readers = [Reader(target)] + ([Reader(assistant)] if any(weights) else [])
    outputs: list[list[int]] = [[] for _ in prompts]
    going = [True] * len(prompts)
    read = [reader.begin(prompts) for reader in readers]
    for _ in range(max_tokens):
        logits = read[0]
        if len(read) > 1:
            weight = torch.tensor(weights)[:, None]
            less = subtract(logits, weight * read[1], rate)
            logits = torch.where(weight != 0, less, logits)
        if edit is not None:
            logits = edit(logits, outputs)
        tokens = logits.argmax(dim=1).tolist()
        for row, token in enumerate(tokens):
            if going[row] and token in end_ids:
                going[row] = False
            # An ended row goes on reading, so that lists stay live; its tail is cut below.
            outputs[row].append(token)
        if not any(going):
            break
        read = [reader.step(tokens) for reader in readers]
    return [_until(output, end_ids) for output in outputs]


def _until(output: list[int], end_ids: Collection[int]) -> list[int]:
    ends = [place for place, token in enumerate(output) if token in end_ids]
    return output[: ends[0]] if ends else output
