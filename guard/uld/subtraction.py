"""The subtraction and its filter (2406.08607, equation 2 and appendix B.5).

`logits - sum of weight * assistant logits`, among the tokens that the target model itself thinks
possible: those not more than -ln r below its best, but always the floor(r * vocabulary) best. All
others get minus infinity. (The authors' code multiplies by a mask, so that a masked token with the
value 0 can win.) Without the floor a model that is sure of its answer is left with one token, and
nothing is forgotten.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch


def possible(logits: torch.Tensor, rate: float) -> torch.Tensor:
    """Which tokens stay: bool like `logits` [..., vocabulary]; `rate` in (0, 1], 1 keeps all."""
    return logits >= _threshold(logits, rate)


def subtract(logits: torch.Tensor, recalled: torch.Tensor, rate: float) -> torch.Tensor:
    """What is sampled from.

    Args:
        logits: of the target model, raw, [..., vocabulary]; minus infinity stays.
        recalled: the assistants' raw logits, each times its weight, summed; of the same shape.
        rate: r of the filter; with several assistants the largest of theirs.
    """
    return (logits - recalled).masked_fill_(~possible(logits, rate), float("-inf"))


def subtract_(
    logits: torch.Tensor, recalled: Iterable[tuple[torch.Tensor, torch.Tensor]], rate: float
) -> None:
    """`subtract` in place.

    Args:
        logits: [rows, vocabulary] float32.
        recalled: for each assistant its logits [rows, vocabulary] and weights [rows, 1].
    """
    impossible = logits < _threshold(logits, rate) if rate < 1 else None
    for said, weights in recalled:
        logits.addcmul_(said, weights, value=-1)
    if impossible is not None:
        logits.masked_fill_(impossible, float("-inf"))


def _threshold(logits: torch.Tensor, rate: float) -> torch.Tensor:
    """The smallest logit that stays in each row, [..., 1]."""
    if rate >= 1:
        return logits.new_full((*logits.shape[:-1], 1), float("-inf"))
    if logits.device.type == "cpu" and logits.dtype == torch.float32:
        plain = logits.numpy().reshape(-1, logits.shape[-1]).copy()
        return torch.from_numpy(least_possible(plain, rate)).view(*logits.shape[:-1], 1)
    threshold = logits.amax(dim=-1, keepdim=True) + math.log(rate)
    floor = int(rate * logits.shape[-1])
    if floor > 0:
        best = logits.topk(floor, dim=-1, sorted=False).values
        threshold = torch.minimum(threshold, best.amin(dim=-1, keepdim=True))
    return threshold


def least_possible(logits: npt.NDArray[np.float32], rate: float) -> npt.NDArray[np.float32]:
    """The smallest logit that stays in each row [rows] of logits [rows, vocabulary], reordered."""
    if rate >= 1:
        return np.full(logits.shape[0], -np.inf, np.float32)
    width = logits.shape[-1]
    floor = int(rate * width)
    place = width - max(1, floor)
    # Four to eight times as fast as torch's on a CPU; the best are behind the n-th best.
    logits.partition(place, axis=-1)
    best: npt.NDArray[np.float32] = logits[:, place:].max(axis=-1) + np.float32(math.log(rate))
    return np.minimum(best, logits[:, place]) if floor else best
