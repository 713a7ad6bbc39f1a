"""An assistant's keys and values, in blocks shared by all requests (vLLM's layout in little).

Memory is taken once. A request holds as many blocks as its text needs, and gives them back when it
leaves; nothing of it stays anywhere else, so preemption and resumption need no care.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from guard.errors import AssistantFull

BLOCK = 16  # tokens


@dataclass(slots=True, eq=False)
class Seat:
    """A request's place: its blocks, and how many of its tokens have been read."""

    blocks: list[int] = field(default_factory=list)
    read: int = 0


class SlotCache:
    """Keys and values of all layers; read and written by transformers' attention through `update`.

    Args:
        config: the assistant's text config.
        layers: how many layers it has.
        tokens: room for this many tokens altogether.
    """

    def __init__(
        self, config: Any, layers: int, tokens: int, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        num_blocks = -(-tokens // BLOCK)
        shape = (num_blocks, BLOCK, *_heads(config))
        self._keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(layers)]
        self._values = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(layers)]
        self._free = list(range(num_blocks - 1, -1, -1))
        self._device = device
        # What the next forward pass is about: [rows, blocks] and [rows, tokens].
        self._table = torch.zeros(0)
        self._places = torch.zeros(0)

    @staticmethod
    def bytes_per_token(config: Any, layers: int, dtype: torch.dtype) -> int:
        """What a token costs."""
        heads, width = _heads(config)
        return 2 * layers * heads * width * dtype.itemsize

    def grow(self, seat: Seat, length: int) -> None:
        """Make room for a text of `length` tokens.

        Raises:
            AssistantFull: there are not enough blocks left.
        """
        missing = -(-length // BLOCK) - len(seat.blocks)
        if missing > len(self._free):
            raise AssistantFull("the assistant's memory is full")
        for _ in range(missing):
            seat.blocks.append(self._free.pop())

    def give_back(self, seat: Seat) -> None:
        """The request has left."""
        self._free += reversed(seat.blocks)
        seat.blocks, seat.read = [], 0

    def aim(self, seats: Sequence[Seat], positions: torch.Tensor) -> int:
        """Say whose tokens at which positions [rows, tokens] come next; gives the keys' width."""
        width = max(-(-(int(last) + 1) // BLOCK) for last in positions[:, -1].tolist())
        table = [(seat.blocks + [0] * width)[:width] for seat in seats]
        self._table = torch.tensor(table, device=self._device)
        positions = positions.to(self._device)
        block = self._table.gather(1, positions // BLOCK)
        self._places = block * BLOCK + positions % BLOCK
        return width * BLOCK

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take in the new keys and values [rows, heads, tokens, width]; gives those of all tokens.

        What lies behind a row's newest token is old or another's: the mask hides it.
        """
        return (
            self._take(self._keys[layer], keys),
            self._take(self._values[layer], values),
        )

    def get_seq_length(self, *_: Any) -> int:
        """Unused: positions and mask are given."""
        return 0

    def _take(self, pool: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        flat = pool.view(-1, *pool.shape[2:])
        flat[self._places] = new.transpose(1, 2).to(pool.dtype)
        found = pool[self._table]  # [rows, blocks, BLOCK, heads, width]
        return found.flatten(1, 2).transpose(1, 2)


def _heads(config: Any) -> tuple[int, int]:
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return getattr(config, "num_key_value_heads", None) or heads, width
