"""Where an assistant's tokens come from: the host's lists, or an engine's history on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch


class Text(Protocol):
    """One request's tokens."""

    def piece(self, begin: int, end: int) -> torch.Tensor:
        """Tokens begin .. end - 1: [1, tokens] int64."""
        ...

    @property
    def known(self) -> Sequence[int]:
        """The tokens as far as the host knows them; nothing if it does not."""
        ...


class HostText:
    """Tokens in a list."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.known = tokens

    def piece(self, begin: int, end: int) -> torch.Tensor:
        """See `Text`; on the CPU."""
        return torch.tensor([list(self.known[begin:end])])


class DeviceText:
    """A slot of an engine's history [slots, longest] int32; `known` is its beginning at most."""

    def __init__(self, history: torch.Tensor, slot: int, known: Sequence[int] = ()) -> None:
        self._history, self._slot, self.known = history, slot, known

    def piece(self, begin: int, end: int) -> torch.Tensor:
        """See `Text`; on the history's device."""
        return self._history[self._slot : self._slot + 1, begin:end].long()
