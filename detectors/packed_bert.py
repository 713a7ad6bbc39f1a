"""BERT without padding: the forward pass of small sentence encoders on a CPU.

Every request is encoded once, on the processor that the API server and perhaps the engine run on,
so this pass is what an unmatched request costs. The library's takes a quarter longer for one short
text: it pads, checks and dispatches, and multiplies three times where once is enough. Here the
tokens of all texts stand in one matrix, and query, key and value are one product. Where the
processor multiplies bf16, products are computed in it, in less than half the time; states, norms
and means stay in fp32.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch.nn import functional

from detectors.bert_pass import PROBES, BertPass

# What x86 processors call their instructions for it; elsewhere it was not tried.
_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
# Between the embeddings with products in bf16 and in fp32 (all-MiniLM: 0.99998).
_LEAST_COSINE = 0.999


def multiplies_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this processor has instructions that multiply bf16, by what Linux says of it."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    flags = next((line.partition(":")[2] for line in lines if line.startswith("flags")), "")
    return not _BF16_FLAGS.isdisjoint(flags.split())


class PackedBert(BertPass):
    """A BERT encoder with mean pooling on the CPU. Not thread-safe (its tokenizer)."""

    # In fp32 they differ by rounding only (1e-7 on all-MiniLM).
    tolerance = 1e-5

    @classmethod
    def of(cls, model: Any) -> Self | None:
        """As for any pass, compared in fp32; then with the products that this processor has."""
        exact = super().of(model)
        if exact is None or not multiplies_bf16():
            return exact
        halved = cls(model)
        halved.halve()
        cosines = (halved.encode(PROBES) * exact.encode(PROBES)).sum(1)
        return halved if float(cosines.min()) >= _LEAST_COSINE else exact

    @classmethod
    def suits(cls, model: Any) -> bool:
        """On the CPU, in fp32."""
        return str(model.device) == "cpu" and model.dtype == torch.float32

    def halve(self) -> None:
        """Compute products in bf16 from now on."""
        self._layers = [layer.halved() for layer in self._layers]

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit vectors [len(texts), width] of some texts, each cut to the model's length."""
        ids: list[list[int]] = self._tokenizer(
            list(texts), padding=False, truncation=True, max_length=self._max_tokens
        )["input_ids"]
        lengths = [len(one) for one in ids]
        states = self._embed(ids)
        for layer in self._layers:
            parts = torch.split(layer.project(states), lengths)
            states = layer.finish(torch.cat([self._attend(part) for part in parts]), states)
        means = torch.stack([part.mean(0) for part in torch.split(states, lengths)])
        return functional.normalize(means, dim=1)

    def _embed(self, ids: Sequence[Sequence[int]]) -> torch.Tensor:
        """[tokens of all texts, width]"""
        own = self._embeddings
        tokens = torch.tensor([token for one in ids for token in one])
        positions = torch.cat([torch.arange(len(one)) for one in ids])
        summed = own.word_embeddings(tokens) + own.position_embeddings(positions)
        normed: torch.Tensor = own.LayerNorm(summed + own.token_type_embeddings.weight[0])
        return normed

    def _attend(self, projected: torch.Tensor) -> torch.Tensor:
        """Attention of one text's tokens to each other: [n, 3 * width] to [n, width]."""
        tokens = len(projected)
        query, key, value = projected.view(tokens, 3, self._heads, -1).permute(1, 2, 0, 3)
        seen = functional.scaled_dot_product_attention(query[None], key[None], value[None])
        return seen[0].transpose(0, 1).reshape(tokens, -1)
