"""Likelihoods of given answers, plain or after the subtraction (teacher-forced)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from guard.uld.lessons import EncodedLesson
from guard.uld.padded import Padded
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
        padded = Padded.of(batch, target.device)
        ids, options = padded.ids, {"use_cache": False, "logits_to_keep": padded.positions}
        logits = target(ids, **options).logits.float()
        if assistant is not None:
            recalled = assistant(ids, **options).logits.float()
            logits = torch.where(possible(logits, rate), logits - weight * recalled, logits)
        chances = torch.log_softmax(logits, dim=-1)
        said = chances.gather(2, padded.following[..., None])[..., 0]
        for place, lesson, row in zip(places, batch, said, strict=True):
            found[place] = float(row[padded.answer(lesson)].mean())
    return found
