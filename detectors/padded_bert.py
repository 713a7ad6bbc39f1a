"""BERT in few kernels: the forward pass of small sentence encoders on a GPU.

A short text is over before the host has launched the next kernel, so its time is the number of
launches: the library's pass has three times as many as there need be. Here query, key and value are
one product, and the texts of a batch are padded to the longest, so that each step is one kernel for
all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from detectors.bert_pass import BertPass, Layer


class PaddedBert(BertPass):
    """A BERT encoder with mean pooling, on any device; the mean is taken in fp32."""

    # Both round to bf16 at every layer, each in its own order.
    tolerance = 1e-2

    @classmethod
    def suits(cls, model: Any) -> bool:
        """On a GPU."""
        return bool(model.device.type == "cuda")

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit vectors [len(texts), width] on the CPU, each text cut to the model's length."""
        padded = self._tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=self._max_tokens,
            return_tensors="pt",
        )
        device = self._embeddings.word_embeddings.weight.device
        ids = padded["input_ids"].to(device, non_blocking=True)
        said = padded["attention_mask"].to(device, non_blocking=True)
        even = bool(padded["attention_mask"].all())
        mask = None if even else said.bool()[:, None, None, :]
        states = self._embed(ids)
        for layer in self._layers:
            states = layer.finish(self._attend(layer, states, mask), states)
        summed = (states.float() * said[..., None]).sum(1)
        return functional.normalize(summed / said.sum(1, keepdim=True), dim=1).cpu()

    def _embed(self, ids: torch.Tensor) -> torch.Tensor:
        """[texts, tokens] to [texts, tokens, width]"""
        own = self._embeddings
        summed = own.word_embeddings(ids) + own.position_embeddings.weight[: ids.shape[1]]
        normed: torch.Tensor = own.LayerNorm(summed + own.token_type_embeddings.weight[0])
        return normed

    def _attend(
        self, layer: Layer, states: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Attention within each text, [texts, tokens, width]; `mask` is False where padding is."""
        texts, tokens, width = states.shape
        projected = layer.project(states).view(texts, tokens, 3, self._heads, -1)
        query, key, value = projected.permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return seen.transpose(1, 2).reshape(texts, tokens, width)
