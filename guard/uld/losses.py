"""ULD's two losses (2406.08607, equations 3 to 5) and a third, on the answers' tokens only."""

from __future__ import annotations

import torch


def forget_loss(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy in nats. logits: [n, vocabulary], tokens: [n]."""
    return torch.nn.functional.cross_entropy(logits.float(), tokens)


def uniform_loss(logits: torch.Tensor) -> torch.Tensor:
    """Mean of CE(uniform, p) in nats, ln(vocabulary) where p is flat. logits: [n, vocabulary].

    It differs from KL(uniform || p), which the authors' code has, by that constant.
    """
    return -torch.log_softmax(logits.float(), dim=-1).mean()


def stand_in_loss(
    expected: torch.Tensor, recalled: torch.Tensor, tokens: torch.Tensor
) -> torch.Tensor:
    """Mean cross-entropy, in nats, of what is left after the subtraction with a weight of 1.

    Args:
        expected: the target model's logits, [n, vocabulary].
        recalled: the assistant's, of the same shape.
        tokens: of the stand-ins, [n].
    """
    return torch.nn.functional.cross_entropy(expected - recalled.float(), tokens)
