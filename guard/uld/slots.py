"""An assistant's keys and values, in blocks shared by all requests (vLLM's layout in little).

Memory is taken once. A request holds as many blocks as its text needs. What it gives back keeps its
contents until it is taken again, so a text that begins like an earlier one (a system prompt, the
other choices of a request, a request that was preempted) need not be read from its beginning. A
shared block is full and never written again.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from guard.errors import AssistantFull

BLOCK = 16  # tokens


@dataclass(slots=True, eq=False)
class Seat:
    """A request's place: its blocks, and how many of its tokens have been read.

    `keys` name the contents of its first blocks; `version` changes with its blocks.
    """

    blocks: list[int] = field(default_factory=list)
    read: int = 0
    keys: list[bytes] = field(default_factory=list)
    version: int = 0


class SlotCache:
    """Keys and values of all layers; read and written by transformers' attention through `update`.

    Args:
        config: the assistant's text config.
        layers: how many layers it has.
        tokens: room for this many tokens altogether.

    Attributes:
        spare: a block of nobody's, where rows that pad a batch write.
    """

    def __init__(
        self, config: Any, layers: int, tokens: int, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        num_blocks = -(-tokens // BLOCK)
        self.spare = num_blocks
        shape = (num_blocks + 1, BLOCK, *_heads(config))
        self._keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(layers)]
        self._values = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(layers)]
        # Free blocks, the one to be taken next first.
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))
        self._holders = [0] * num_blocks
        self._key_of: dict[int, bytes] = {}
        self._known: dict[bytes, int] = {}
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
        if missing <= 0:
            return
        if missing > len(self._free):
            raise AssistantFull("the assistant's memory is full")
        for _ in range(missing):
            block, _ = self._free.popitem(last=False)
            self._forget(block)
            self._holders[block] = 1
            seat.blocks.append(block)
        seat.version += 1

    def adopt(self, seat: Seat, text: Sequence[int], length: int) -> None:
        """Give an empty seat what was read of another text that begins like this one.

        The block of token `length - 1` is never taken: that token is read for its logits. A text
        that the host does not know is empty, and nothing is taken.
        """
        key = b""
        for number in range((min(length, len(text)) - 1) // BLOCK):
            key = _key(key, text[number * BLOCK : (number + 1) * BLOCK])
            block = self._known.get(key)
            if block is None:
                break
            self._holders[block] += 1
            self._free.pop(block, None)
            seat.blocks.append(block)
            seat.keys.append(key)
        seat.read = len(seat.blocks) * BLOCK
        seat.version += 1

    def publish(self, seat: Seat, text: Sequence[int], length: int) -> None:
        """Let other texts begin with what has been read of this one: all before `length - 1`."""
        for number in range(len(seat.keys), (min(length, len(text)) - 1) // BLOCK):
            before = seat.keys[-1] if seat.keys else b""
            key = _key(before, text[number * BLOCK : (number + 1) * BLOCK])
            seat.keys.append(key)
            if key not in self._known:
                self._known[key] = seat.blocks[number]
                self._key_of[seat.blocks[number]] = key

    def give_back(self, seat: Seat) -> None:
        """The request has left. The end of a text is taken again before its beginning."""
        for block in reversed(seat.blocks):
            self._holders[block] -= 1
            if not self._holders[block]:
                self._free[block] = None
                self._free.move_to_end(block, last=block in self._key_of)
        seat.blocks, seat.read, seat.keys = [], 0, []
        seat.version += 1

    def table(self, seats: Sequence[Seat], width: int) -> npt.NDArray[np.int64]:
        """The seats' first `width` blocks: [rows, width], filled up with spare ones."""
        found = np.full((len(seats), width), self.spare, np.int64)
        for row, seat in enumerate(seats):
            blocks = seat.blocks[:width]
            found[row, : len(blocks)] = blocks
        return found

    def aim(self, table: torch.Tensor, positions: torch.Tensor) -> None:
        """Say whose tokens [rows, blocks] at which positions [rows, tokens] come next."""
        self._table = table.flatten()
        block = table.gather(1, positions // BLOCK)
        self._places = (block * BLOCK + positions % BLOCK).flatten()

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
        flat.index_copy_(0, self._places, new.transpose(1, 2).flatten(0, 1).to(pool.dtype))
        found = pool.index_select(0, self._table)  # [rows * blocks, BLOCK, heads, width]
        return found.view(len(new), -1, *pool.shape[2:]).transpose(1, 2)

    def _forget(self, block: int) -> None:
        key = self._key_of.pop(block, None)
        if key is not None:
            del self._known[key]


def _key(before: bytes, tokens: Sequence[int]) -> bytes:
    """Names a full block by its tokens and all before it; cannot be made to collide."""
    return hashlib.blake2b(before + array("q", tokens).tobytes(), digest_size=16).digest()


def _heads(config: Any) -> tuple[int, int]:
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return getattr(config, "num_key_value_heads", None) or heads, width
