"""LoRA (Hu et al. 2021): a low-rank addition to every linear layer, merged when it is done."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


class LoraLinear(nn.Module):
    """`y = W x + (alpha / rank) B A dropout(x)`; W is frozen, B starts at zero."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_a = nn.Parameter(base.weight.new_empty(rank, base.in_features))
        self.lora_b = nn.Parameter(base.weight.new_zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=5**0.5)
        self.scale = alpha / rank
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [..., in] to [..., out]."""
        low = nn.functional.linear(self.dropout(x), self.lora_a)
        added: torch.Tensor = self.base(x) + self.scale * nn.functional.linear(low, self.lora_b)
        return added

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The plain linear layer that computes the same."""
        self.base.weight += self.scale * (self.lora_b @ self.lora_a)
        return self.base


def add_lora(layers: nn.Module, rank: int, alpha: float, dropout: float) -> None:
    """Put LoRA on every linear layer under `layers`; all else there is frozen."""
    layers.requires_grad_(False)
    for parent, name, linear in _found(layers, nn.Linear):
        setattr(parent, name, LoraLinear(linear, rank, alpha, dropout))


def merge_lora(layers: nn.Module) -> None:
    """Undo `add_lora`, with what was learned."""
    for parent, name, wrapped in _found(layers, LoraLinear):
        setattr(parent, name, wrapped.merged())


def _found(root: nn.Module, kind: type[M]) -> list[tuple[nn.Module, str, M]]:
    return [
        (parent, name, child)
        for parent in root.modules()
        for name, child in parent.named_children()
        if isinstance(child, kind) and not isinstance(parent, LoraLinear)
    ]
