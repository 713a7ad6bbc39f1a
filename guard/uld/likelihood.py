"""Likelihoods of given answers, plain or after the subtraction (teacher-forced)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from guard.uld.lessons import EncodedLesson
from guard.uld.subtraction import possible

_AT_ONCE = 32


@torch.no_grad()
def mean_log_likelihoods(
    target: Any,
    answers: Sequence[EncodedLesson],
    *,
    assistant: Any = None,
    weight: float = 0.0,
    rate: float = 0.01,
) -> list[float]:
    """`log P(answer | prompt) / |answer|` in nats, end marks among the tokens.

    With an assistant, tokens outside the filter keep the target's own logit, as in the authors'
    code: while decoding they are impossible, and the likelihood of most texts would be 0.
    """
    order = sorted(range(len(answers)), key=lambda place: len(answers[place]))
    found = [0.0] * len(answers)
    for begin in range(0, len(order), _AT_ONCE):
        places = order[begin : begin + _AT_ONCE]
        batch = [answers[place] for place in places]
        width = max(map(len, batch))
        first = min(len(x.prompt) for x in batch) - 1
        rows = [[*x.prompt, *x.answer, *[0] * (width - len(x))] for x in batch]
        ids = torch.tensor(rows, device=target.device)
        kept = torch.arange(first, width - 1, device=target.device)
        logits = target(ids, use_cache=False, logits_to_keep=kept).logits.float()
        if assistant is not None:
            recalled = assistant(ids, use_cache=False, logits_to_keep=kept).logits.float()
            logits = torch.where(possible(logits, rate), logits - weight * recalled, logits)
        chances = torch.log_softmax(logits, dim=-1)
        said = chances.gather(2, ids[:, first + 1 :, None])[..., 0]
        for row, (place, lesson) in enumerate(zip(places, batch, strict=True)):
            start = len(lesson.prompt) - 1 - first
            found[place] = float(said[row, start : start + len(lesson.answer)].mean())
    return found
