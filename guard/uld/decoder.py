"""An assistant decoding in lock-step with the target: one batched pass per step for all rows.

What a row gets depends on its own tokens only: texts are read from the history whenever the cache
lacks them, so new, resumed and repeated requests are all alike. The host decides from lengths alone
and waits for nothing on the device.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from guard.device_policy import to_device
from guard.errors import AssistantUnreadable
from guard.uld.assistant import layers_of
from guard.uld.graphs import Graphs
from guard.uld.slots import BLOCK, Seat, SlotCache
from guard.uld.texts import HostText, Text

CHUNK = 512  # tokens of a prompt that are read at once
_TOLERANCE = 1e-3

logger = logging.getLogger(__name__)


class Decoder:
    """An assistant with a cache of its own.

    Args:
        model: from `load_model`.
        tokens: room in the cache for this many tokens, of all requests together.
        rows: on a GPU, up to this many rows are decoded by captured graphs; 0: none are.
    """

    def __init__(self, model: Any, tokens: int, rows: int = 0) -> None:
        """Take the memory and check that the cache gives what the model itself gives.

        Raises:
            AssistantUnreadable: it does not; the architecture is not supported.
        """
        self._model = model
        self._config = model.config.get_text_config()
        self._device: torch.device = model.device
        self._cache = SlotCache(
            self._config, len(layers_of(model)), tokens, device=model.device, dtype=model.dtype
        )
        self._most_blocks = _blocks(tokens)  # of one pass, all its rows as wide as the widest
        self._arranged: list[tuple[Seat, int]] = []
        self._table = torch.zeros(0)
        self._graphs = self._captured(rows)
        try:
            self._check(tokens)
        except AssistantUnreadable:
            if self._graphs is None:
                raise
            logger.warning("an assistant is decoded without CUDA graphs: they gave something else")
            self._graphs = None
            self._check(tokens)

    def read(self, seat: Seat, text: Text, length: int) -> None:
        """Take in a text up to its token `length - 1`, that one excepted.

        Raises:
            AssistantFull: there is no room for it.
        """
        if not seat.blocks:
            self._cache.adopt(seat, text.known, length)
        self._cache.grow(seat, length)
        while seat.read < length - 1:
            end = min(seat.read + CHUNK, length - 1)
            self._read_piece(seat, text.piece(seat.read, end), seat.read)
            seat.read = end
        self._cache.publish(seat, text.known, length)

    def release(self, seat: Seat) -> None:
        """Give a request's memory back."""
        self._cache.give_back(seat)

    @torch.no_grad()
    def step(
        self, seats: Sequence[Seat], tokens: torch.Tensor, lengths: Sequence[int]
    ) -> torch.Tensor:
        """Logits after each text, all of which have been `read`: [rows, vocabulary].

        Args:
            tokens: each text's last token, [rows] int64 on the device.
            lengths: of the texts.
        """
        if len(seats) * _blocks(max(lengths)) <= self._most_blocks:
            logits = self._decode(seats, tokens, lengths)
        else:
            logits = self._decode_apart(seats, tokens, lengths)
        for seat, length in zip(seats, lengths, strict=True):
            seat.read = length
        return logits

    def _decode(
        self, seats: Sequence[Seat], tokens: torch.Tensor, lengths: Sequence[int]
    ) -> torch.Tensor:
        blocks = _blocks(max(lengths))
        positions = to_device(np.array(lengths, np.int64) - 1, self._device)
        width = None if self._graphs is None else self._graphs.width(len(seats), blocks)
        table = self._arrange(seats, width or blocks)
        if self._graphs is not None and width is not None:
            return self._graphs.run(tokens, positions, table)
        return self._pass(tokens[:, None], positions[:, None], table)

    def _decode_apart(
        self, seats: Sequence[Seat], tokens: torch.Tensor, lengths: Sequence[int]
    ) -> torch.Tensor:
        """Rows of very different lengths, not all padded to the longest: in several passes."""
        order = sorted(range(len(seats)), key=lambda row: -lengths[row])
        found = torch.zeros(0)
        while order:
            fit = max(1, self._most_blocks // _blocks(lengths[order[0]]))
            part, order = order[:fit], order[fit:]
            at = to_device(np.array(part, np.int64), self._device)
            logits = self._decode(
                [seats[row] for row in part], tokens[at], [lengths[row] for row in part]
            )
            if not len(found):
                found = logits.new_empty(len(seats), logits.shape[1])
            found.index_copy_(0, at, logits)
        return found

    def _arrange(self, seats: Sequence[Seat], width: int) -> torch.Tensor:
        """The seats' blocks on the device; most steps have those of the step before."""
        wanted = [(seat, seat.version) for seat in seats]
        if wanted != self._arranged or self._table.shape[1] != width:
            self._table = to_device(self._cache.table(seats, width), self._device)
            self._arranged = wanted
        return self._table

    @torch.no_grad()
    def _read_piece(self, seat: Seat, tokens: torch.Tensor, start: int) -> None:
        end = start + tokens.shape[1]
        table = to_device(self._cache.table([seat], _blocks(end)), self._device)
        positions = torch.arange(start, end, device=self._device)[None]
        self._pass(tokens.to(self._device), positions, table, head=False)

    def _pass(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        table: torch.Tensor,
        *,
        head: bool = True,
    ) -> torch.Tensor:
        """Equally many tokens of each row at their positions; gives logits after the last one.

        Works on tensors only, so that it can be captured. tokens, positions: [rows, tokens];
        table: [rows, blocks].
        """
        self._cache.aim(table, positions)
        model = self._model if head else self._model.get_decoder()
        keep = {"logits_to_keep": 1} if head else {}
        found = model(
            input_ids=tokens,
            position_ids=positions,
            attention_mask=self._mask(positions, table.shape[1] * BLOCK),
            past_key_values=self._cache,
            use_cache=True,
            **keep,
        )
        last: torch.Tensor = found[0][:, -1]
        return last

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

    def _captured(self, rows: int) -> Graphs | None:
        """Graphs of the decode pass; None where it cannot be captured."""
        if not rows or self._device.type != "cuda":
            return None
        try:
            with torch.no_grad():
                return Graphs(
                    lambda ids, at, table: self._pass(ids[:, None], at[:, None], table),
                    rows=rows,
                    blocks=self._most_blocks,
                    spare=self._cache.spare,
                    device=self._device,
                )
        except RuntimeError as error:
            logger.warning("an assistant is decoded without CUDA graphs: %s", error)
            return None

    @torch.no_grad()
    def _check(self, tokens: int) -> None:
        """Read two texts token by token, and as a whole without the cache."""
        length = min(3 * BLOCK // 2, max(2, tokens // 4))
        vocabulary = self._config.vocab_size
        texts = [[(7 * i + 3 * row) % vocabulary for i in range(length)] for row in range(2)]
        seats = [Seat(), Seat()]
        try:
            for end in (1, 2, length // 2 + 1, length):
                for seat, text in zip(seats, texts, strict=True):
                    self.read(seat, HostText(text), end)
                last = torch.tensor([text[end - 1] for text in texts], device=self._device)
                found = self.step(seats, last, [end, end]).float()
        except (TypeError, KeyError, AttributeError, RuntimeError) as error:
            raise AssistantUnreadable(
                f"this architecture cannot be decoded in slots: {type(error).__name__}"
            ) from None
        finally:
            for seat in seats:
                self.release(seat)
        ids = torch.tensor(texts, device=self._device)
        wanted = self._model(ids, use_cache=False, logits_to_keep=1).logits[:, -1].float()
        scale = float(wanted.abs().max())
        limit = _TOLERANCE if self._model.dtype == torch.float32 else 0.05
        if float((found - wanted).abs().max()) > limit * max(1.0, scale):
            raise AssistantUnreadable("this architecture decodes differently in slots")


def _blocks(tokens: int) -> int:
    return -(-tokens // BLOCK)
