"""An assistant decoding in lock-step with the target: one batched pass per step for all rows.

What a row gets depends on its own tokens only: texts are read from the history whenever the cache
lacks them, so new, resumed and repeated requests are all alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from guard.errors import AssistantUnreadable
from guard.uld.assistant import layers_of
from guard.uld.slots import BLOCK, Seat, SlotCache

CHUNK = 512  # tokens of a prompt that are read at once
_TOLERANCE = 1e-3


class Decoder:
    """An assistant with a cache of its own.

    Args:
        model: from `load_model`.
        tokens: room in the cache for this many tokens, of all requests together.
    """

    def __init__(self, model: Any, tokens: int) -> None:
        """Take the memory and check that the cache gives what the model itself gives.

        Raises:
            AssistantUnreadable: it does not; the architecture is not supported.
        """
        self._model = model
        self._config = model.config.get_text_config()
        self._cache = SlotCache(
            self._config, len(layers_of(model)), tokens, device=model.device, dtype=model.dtype
        )
        self._check(tokens)

    def grow(self, seat: Seat, length: int) -> None:
        """Make room for a text of `length` tokens.

        Raises:
            AssistantFull: there is none.
        """
        self._cache.grow(seat, length)

    def release(self, seat: Seat) -> None:
        """Give a request's memory back."""
        self._cache.give_back(seat)

    @torch.no_grad()
    def step(self, seats: Sequence[Seat], texts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Logits after each text: [rows, vocabulary] float32. Texts hold at least one token.

        Raises:
            AssistantFull: the cache has no room for them.
        """
        for seat, text in zip(seats, texts, strict=True):
            self._cache.grow(seat, len(text))
            # All but the last token, which goes with the others' last ones.
            while seat.read < len(text) - 1:
                end = min(seat.read + CHUNK, len(text) - 1)
                self._read([seat], [text[seat.read : end]], [seat.read])
                seat.read = end
        logits = self._read(seats, [text[-1:] for text in texts], [len(text) - 1 for text in texts])
        for seat, text in zip(seats, texts, strict=True):
            seat.read = len(text)
        return logits

    def _read(
        self, seats: Sequence[Seat], tokens: Sequence[Sequence[int]], starts: Sequence[int]
    ) -> torch.Tensor:
        """One pass over equally many tokens of each seat, from their start positions on."""
        length = len(tokens[0])
        positions = torch.tensor(starts)[:, None] + torch.arange(length)
        width = self._cache.aim(seats, positions)
        device = self._model.device
        positions = positions.to(device)
        found = self._model(
            input_ids=torch.tensor([list(x) for x in tokens], device=device),
            position_ids=positions,
            attention_mask=self._mask(positions, width),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: torch.Tensor = found.logits[:, -1].float()
        return logits

    def _mask(self, positions: torch.Tensor, width: int) -> Any:
        """Additive masks [rows, 1, tokens, width] in the form that the model takes."""
        own = positions[:, None, :, None]
        keys = torch.arange(width, device=positions.device)
        full = keys <= own
        window = getattr(self._config, "sliding_window", None)
        near = full & (keys > own - window) if window else full
        kinds = getattr(self._config, "layer_types", None)
        if not kinds:
            return self._additive(near)
        return {"full_attention": self._additive(full), "sliding_attention": self._additive(near)}

    def _additive(self, seen: torch.Tensor) -> torch.Tensor:
        dtype = self._model.dtype
        zero = torch.zeros((), dtype=dtype, device=seen.device)
        return torch.where(seen, zero, torch.finfo(dtype).min)

    @torch.no_grad()
    def _check(self, tokens: int) -> None:
        """Read two texts token by token, and as a whole without the cache."""
        length = min(3 * BLOCK // 2, max(2, tokens // 4))
        vocabulary = self._config.vocab_size
        texts = [[(7 * i + 3 * row) % vocabulary for i in range(length)] for row in range(2)]
        seats = [Seat(), Seat()]
        try:
            for end in (1, 2, length // 2 + 1, length):
                found = self.step(seats, [text[:end] for text in texts])
        except (TypeError, KeyError, AttributeError, RuntimeError) as error:
            raise AssistantUnreadable(
                f"this architecture cannot be decoded in slots: {type(error).__name__}"
            ) from None
        finally:
            for seat in seats:
                self.release(seat)
        ids = torch.tensor(texts, device=self._model.device)
        wanted = self._model(ids, use_cache=False, logits_to_keep=1).logits[:, -1].float()
        scale = float(wanted.abs().max())
        limit = _TOLERANCE if self._model.dtype == torch.float32 else 0.05
        if float((found - wanted).abs().max()) > limit * max(1.0, scale):
            raise AssistantUnreadable("this architecture decodes differently in slots")
