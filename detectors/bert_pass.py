"""What the passes of our own through a BERT sentence encoder share: its weights and its layers.

Devlin et al., 2019, for the layers; mean pooling as in Reimers & Gurevych, 2019.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch.nn import functional

# Texts that passes are compared on.
PROBES = (
    "Who?",
    "A longer question, so that the two of them have to be padded: where was the author born?",
)


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer's weights; `qkv` [3 * width, width] is query, key and value, one below another.

    Its products are computed in `qkv`'s number format, everything else in that of the states.
    """

    qkv: torch.Tensor
    qkv_bias: torch.Tensor
    attention: Any
    attention_norm: Any
    inner: Any
    outer: Any
    outer_norm: Any

    @classmethod
    def of(cls, layer: Any) -> Layer:
        """Those of the library's layer; query, key and value are copied."""
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

    def halved(self) -> Layer:
        """The same layer with products in bf16."""
        modules = {"attention": self.attention, "inner": self.inner, "outer": self.outer}
        return replace(
            self,
            qkv=self.qkv.bfloat16(),
            qkv_bias=self.qkv_bias.bfloat16(),
            **{name: deepcopy(module).bfloat16() for name, module in modules.items()},
        )

    def project(self, states: torch.Tensor) -> torch.Tensor:
        """Query, key and value, [..., width] to [..., 3 * width]."""
        return functional.linear(states.to(self.qkv.dtype), self.qkv, self.qkv_bias)

    def finish(self, seen: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """What follows attention, with `seen` what it found; both [..., width]."""
        exact = states.dtype
        states = self.attention_norm(self.attention(seen).to(exact) + states)
        inner = functional.gelu(self.inner(states.to(self.qkv.dtype)))
        normed: torch.Tensor = self.outer_norm(self.outer(inner).to(exact) + states)
        return normed


class BertPass(ABC):
    """A BERT encoder with mean pooling. Not thread-safe (its tokenizer)."""

    # How far a unit vector's numbers may be from the library's.
    tolerance: float

    def __init__(self, model: Any) -> None:
        """Take over the weights of a sentence-transformers model, without copying most of them."""
        bert = model[0].auto_model
        self._tokenizer = model.tokenizer
        self._max_tokens = int(model.max_seq_length)
        self._heads = int(bert.config.num_attention_heads)
        self._embeddings = bert.embeddings
        self._layers = [Layer.of(layer) for layer in bert.encoder.layer]

    @classmethod
    @abstractmethod
    def suits(cls, model: Any) -> bool:
        """Whether the pass is made for the device and number format of a model."""

    @classmethod
    def of(cls, model: Any) -> Self | None:
        """The pass for a sentence-transformers model; None where it would not give the same.

        That is so by its configuration, and because both give the same vectors for two texts.
        """
        if not cls.suits(model) or not _is_plain_bert(model):
            return None
        found = cls(model)
        expected = model.encode(list(PROBES), convert_to_tensor=True, show_progress_bar=False)
        expected = functional.normalize(expected.float(), dim=1).cpu()
        same = torch.allclose(found.encode(PROBES), expected, rtol=0, atol=cls.tolerance)
        return found if same else None

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit vectors [len(texts), width] on the CPU, each text cut to the model's length."""


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
        and not model.default_prompt_name
    )
