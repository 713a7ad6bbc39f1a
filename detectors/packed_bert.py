"""BERT without padding: the forward pass of small sentence encoders on a CPU.

Every request is encoded once, on the processor that the API server and perhaps the engine run on,
so this pass is what an unmatched request costs. The library's takes a quarter longer for one short
text: it pads, checks and dispatches, and multiplies three times where once is enough. Here the
tokens of all texts stand in one matrix, and query, key and value are one product (Devlin et al.,
2019, for the layers; mean pooling as in Reimers & Gurevych, 2019).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

# Unit vectors of the library and of this pass differ by rounding only (1e-7 on all-MiniLM).
_TOLERANCE = 1e-5
_PROBES = (
    "Who?",
    "A longer question, so that the two of them have to be padded: where was the author born?",
)


@dataclass(frozen=True, slots=True)
class _Layer:
    """One layer's weights; `qkv` [3 * width, width] is query, key and value, one below another."""

    qkv: torch.Tensor
    qkv_bias: torch.Tensor
    attention: Any
    attention_norm: Any
    inner: Any
    outer: Any
    outer_norm: Any

    @classmethod
    def of(cls, layer: Any) -> _Layer:
        own = layer.attention.self
        parts = (own.query, own.key, own.value)
        return cls(
            torch.cat([part.weight.detach() for part in parts]),
            torch.cat([part.bias.detach() for part in parts]),
            layer.attention.output.dense,
            layer.attention.output.LayerNorm,
            layer.intermediate.dense,
            layer.output.dense,
            layer.output.LayerNorm,
        )


class PackedBert:
    """A BERT encoder with mean pooling, in fp32 on the CPU. Not thread-safe (its tokenizer)."""

    def __init__(self, model: Any) -> None:
        """Take over the weights of a sentence-transformers model, without copying most of them."""
        bert = model[0].auto_model
        self._tokenizer = model.tokenizer
        self._max_tokens = int(model.max_seq_length)
        self._heads = int(bert.config.num_attention_heads)
        self._embeddings = bert.embeddings
        self._layers = [_Layer.of(layer) for layer in bert.encoder.layer]

    @classmethod
    def of(cls, model: Any) -> PackedBert | None:
        """The pass for a sentence-transformers model; None where it would not give the same.

        That is so by its configuration, and because both give the same vectors for two texts.
        """
        if not _is_plain_bert(model):
            return None
        packed = cls(model)
        expected = model.encode(list(_PROBES), convert_to_tensor=True, show_progress_bar=False)
        expected = functional.normalize(expected, dim=1)
        same = torch.allclose(packed.encode(_PROBES), expected, rtol=0, atol=_TOLERANCE)
        return packed if same else None

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit vectors [len(texts), width] of some texts, each cut to the model's length."""
        ids: list[list[int]] = self._tokenizer(
            list(texts), padding=False, truncation=True, max_length=self._max_tokens
        )["input_ids"]
        lengths = [len(one) for one in ids]
        states = self._embed(ids)
        for layer in self._layers:
            states = self._apply(layer, states, lengths)
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

    def _apply(self, layer: _Layer, states: torch.Tensor, lengths: list[int]) -> torch.Tensor:
        projected = functional.linear(states, layer.qkv, layer.qkv_bias)
        seen = torch.cat([self._attend(part) for part in torch.split(projected, lengths)])
        states = layer.attention_norm(layer.attention(seen) + states)
        inner = functional.gelu(layer.inner(states))
        normed: torch.Tensor = layer.outer_norm(layer.outer(inner) + states)
        return normed

    def _attend(self, projected: torch.Tensor) -> torch.Tensor:
        """Attention of one text's tokens to each other: [n, 3 * width] to [n, width]."""
        tokens = len(projected)
        query, key, value = projected.view(tokens, 3, self._heads, -1).permute(1, 2, 0, 3)
        seen = functional.scaled_dot_product_attention(query[None], key[None], value[None])
        return seen[0].transpose(0, 1).reshape(tokens, -1)


def _is_plain_bert(model: Any) -> bool:
    modules = [type(module).__name__ for module in model]
    if modules not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        return False
    config = model[0].auto_model.config
    return bool(
        config.model_type == "bert"
        and config.hidden_act == "gelu"
        and getattr(config, "position_embedding_type", "absolute") == "absolute"
        and not getattr(config, "is_decoder", False)
        and model[1].get_config_dict().get("pooling_mode") in ("mean", None)
        and str(model.device) == "cpu"
        and model.dtype == torch.float32
        and not model.default_prompt_name
    )
