"""The assistants that a worker has loaded, in memory that was taken when it started."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch

from guard.errors import AssistantError, AssistantFull
from guard.uld.assistant import layers_of, load_model
from guard.uld.card import Card
from guard.uld.decoder import CHUNK, Decoder
from guard.uld.fingerprints import expect
from guard.uld.rules import NO_LIMITS, WeightLimits
from guard.uld.shelf import Shelf
from guard.uld.slots import SlotCache

GIB = 2**30

logger = logging.getLogger(__name__)


class Assistants:
    """Loads assistants by digest and keeps them while a policy or a request needs them.

    Args:
        folder: the shelf's.
        tokenizer: fingerprint of the served model's tokenizer.
        base: gives the served model's fingerprint.
        memory: bytes for weights and caches of all assistants together; 0: none can be loaded.
        cache_tokens: room in each assistant's cache, in tokens of all its requests together.
        rows: most requests of a batch.
        device, dtype: of the served model.
        limits: of the weights that keys may have of their own.
    """

    def __init__(
        self,
        folder: Path,
        *,
        tokenizer: str,
        base: Callable[[], str],
        memory: int,
        cache_tokens: int,
        rows: int,
        device: torch.device,
        dtype: torch.dtype,
        limits: WeightLimits = NO_LIMITS,
    ) -> None:
        self.limits = limits
        self._shelf = Shelf(folder)
        self._tokenizer, self._base = tokenizer, base
        self._memory, self._cache_tokens = memory, cache_tokens
        self._rows, self._device, self._dtype = rows, device, dtype
        self._loaded: dict[str, Decoder] = {}
        # Of all that are in memory, also for requests that still hold one that was given up.
        self._sizes: WeakKeyDictionary[Decoder, int] = WeakKeyDictionary()
        # Held so that the engine's profiling counts it; given up piece by piece to what is loaded.
        self._reserve = self._reserved(memory)
        self._lock = threading.Lock()

    def get(self, digest: str) -> Decoder:
        """An assistant, loaded if need be.

        Raises:
            AssistantError: it is missing, damaged, made for another model, or there is no memory.
            ModelUnreadable: transformers cannot load it.
        """
        with self._lock:
            found = self._loaded.get(digest)
            if found is None:
                found = self._loaded[digest] = self._load(digest)
            return found

    def switch(self, digests: Iterable[str]) -> None:
        """Have the assistants of a new policy and no others, the new ones first if there is room.

        Raises:
            AssistantError, ModelUnreadable: as `get`.
        """
        wanted = sorted(set(digests))
        try:
            for digest in wanted:
                self.get(digest)
        except AssistantFull:
            self.keep_only(wanted)
            for digest in wanted:
                self.get(digest)
        self.keep_only(wanted)

    def keep_only(self, digests: Iterable[str]) -> None:
        """Give up those that no policy names; requests that still use one hold it themselves."""
        wanted = set(digests)
        with self._lock:
            for digest in [d for d in self._loaded if d not in wanted]:
                del self._loaded[digest]
            self._reserve = self._reserved(self._left())

    def _load(self, digest: str) -> Decoder:
        if not self._memory:
            raise AssistantError("no memory is set aside for assistants (assistant_memory_gib)")
        folder = self._shelf.folder(digest)
        card = Card.read(folder)
        expect("tokenizer", card.tokenizer, self._tokenizer)
        expect("base model", card.base, self._base())
        model = load_model(folder, dtype=self._dtype)
        config = model.config.get_text_config()  # type: ignore[union-attr,operator]
        size = sum(p.numel() * p.element_size() for p in model.parameters())
        per_token = SlotCache.bytes_per_token(config, len(layers_of(model)), self._dtype)
        size += self._cache_tokens * per_token
        if self._device.type != "cpu":
            size += self._working(config)
        if size > self._left():
            raise AssistantFull(
                f"assistant {digest[:12]} needs {size / GIB:.2f} GiB, {self._left() / GIB:.2f} are "
                "left (assistant_memory_gib)"
            )
        self._reserve = self._reserved(self._left() - size)
        decoder = Decoder(model.to(self._device), self._cache_tokens, self._rows)
        logger.info("assistant %s is loaded", digest[:12])
        self._sizes[decoder] = size
        return decoder

    def _working(self, config: Any) -> int:
        """Bytes for what a pass leaves on the way: logits, masks and copies of them, activations.

        Generous, as vLLM has measured before what is free: what is not counted here has to fit
        into the share of the device that it leaves to others.
        """
        logits = self._rows * config.vocab_size * (2 * self._dtype.itemsize + 4 * 4)
        pieces = CHUNK * (4 * config.hidden_size + 3 * config.intermediate_size)
        masks = 2 * CHUNK * self._cache_tokens
        # A layer's keys and values as attention takes them: gathered, and repeated per head.
        per_token = SlotCache.bytes_per_token(config, 1, self._dtype)
        group = config.num_attention_heads / (config.num_key_value_heads or 1)
        gathered = self._cache_tokens * per_token * (1 + group)
        return int(logits + (pieces + masks) * self._dtype.itemsize + gathered)

    def _left(self) -> int:
        return self._memory - sum(self._sizes.values())

    def _reserved(self, size: int) -> torch.Tensor | None:
        self._reserve = None
        if self._device.type == "cpu" or size <= 0:
            return None  # a CPU engine is told its share, it does not measure what is left
        return torch.empty(size, dtype=torch.uint8, device=self._device)
