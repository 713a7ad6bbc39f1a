"""The two filters that people use today, as their own packages run them.

Both forbid token sequences: each phrase as its tokenizer spells it, bare and with a space before.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Protocol

import torch

from server.bench.errors import InputMissing
from server.bench.vocabularies import RealVocabulary

TokenLists = list[list[int]]


class Rival(Protocol):
    """A filter for a fixed batch in which every row forbids the same phrases."""

    name: str

    def apply(self, logits: torch.Tensor, past: Sequence[Sequence[int]]) -> torch.Tensor:
        """The logits [rows, V] without what must not follow `past`."""


class VllmBadWords:
    """vLLM's `bad_words`. (Its server takes 128 token lists per request by default.)"""

    name = "vllm"

    def __init__(self, real: RealVocabulary, phrases: Sequence[str], rows: int) -> None:
        # By name, because only the plugin may depend on vLLM.
        try:
            module: Any = importlib.import_module("vllm.v1.sample.ops.bad_words")
        except ImportError:
            raise InputMissing("vLLM is not installed, and its bad words are measured") from None
        self._apply = module.apply_bad_words
        lists = vllm_token_lists(real, phrases)
        self._lists = dict.fromkeys(range(rows), lists)

    def apply(self, logits: torch.Tensor, past: Sequence[Sequence[int]]) -> torch.Tensor:
        """In place."""
        self._apply(logits, self._lists, past)
        return logits


class TransformersBadWords:
    """transformers' `NoBadWordsLogitsProcessor`."""

    name = "transformers"

    def __init__(self, real: RealVocabulary, phrases: Sequence[str], rows: int) -> None:
        from transformers import NoBadWordsLogitsProcessor

        lists = [real.encode(text) for phrase in phrases for text in (phrase, f" {phrase}")]
        self._processor: Any = NoBadWordsLogitsProcessor(lists)

    def apply(self, logits: torch.Tensor, past: Sequence[Sequence[int]]) -> torch.Tensor:
        """Into new logits; all rows' pasts must be of one length."""
        result: torch.Tensor = self._processor(torch.tensor([list(p) for p in past]), logits)
        return result


def vllm_token_lists(real: RealVocabulary, phrases: Sequence[str]) -> TokenLists:
    """The token lists that vLLM makes of bad words (`SamplingParams.update_from_tokenizer`)."""
    lists: TokenLists = []
    for phrase in phrases:
        bare, spaced = real.encode(phrase), real.encode(f" {phrase}")
        lists.append(bare)
        if spaced[0] != bare[0] and len(spaced) == len(bare):
            lists.append(spaced)
    return lists
