"""Subtraction by engine slots, whose tokens only the device knows: the host goes by lengths."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from guard.device_policy import to_device
from guard.errors import AssistantFull, GuardError
from guard.uld.subtracting import Ready, Recalls, take_off
from guard.uld.texts import DeviceText


@dataclass(frozen=True, slots=True)
class Lengths:
    """What the host knows of a step's requests.

    Attributes:
        visible: [requests], tokens of each text that the target has read with this step, exact.
        prefill: [slots], tokens that a slot's request had when it entered; while fewer are visible
            the engine discards what it samples.
    """

    visible: npt.NDArray[np.integer[Any]]
    prefill: npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class _Open:
    """A slot's assistants, and its tokens as far as the host was told them."""

    recalls: Recalls
    known: Sequence[int]


class DeviceSubtraction:
    """The slots whose requests have assistants at work.

    Nothing says when a request leaves its slot. What its assistants hold is given up when the next
    one enters, or when there is no room for another: then by the slot that was not in a batch for
    longest. If that was only waiting, its text is read again.
    """

    def __init__(self) -> None:
        # By slot, the one that was in a batch last at the end.
        self._slots: OrderedDict[int, _Open] = OrderedDict()

    def open_slot(self, slot: int, recalls: Recalls, known: Sequence[int] = ()) -> None:
        """A request has entered a slot that was left before; `known` is what its text begins with.

        What is known of a text need not be read again if another one began so.
        """
        self._slots[slot] = _Open(recalls, known)

    def leave_slot(self, slot: int) -> None:
        """What was in the slot has gone."""
        left = self._slots.pop(slot, None)
        if left is not None:
            left.recalls.release()

    def apply(
        self,
        logits: torch.Tensor,
        batch: Sequence[int],
        lengths: Lengths | None,
        history: torch.Tensor,
        fail: Callable[[int, Exception], None],
    ) -> int:
        """Change rows in place, one per slot of `batch`; gives how many. The host does not wait.

        Args:
            logits: [rows, vocabulary] float32.
            history: tokens of all slots, [slots, longest] int32.
            fail: is told which slot's row could not be changed, and why.

        Raises:
            GuardError: the rows are not one per slot.
        """
        here = [slot for slot in batch if slot in self._slots]
        if not here:
            return 0
        if lengths is None or len(logits) != len(batch):
            raise GuardError("assistants are not subtracted from drafted tokens")
        for slot in here:
            self._slots.move_to_end(slot)
        ready: list[Ready] = []
        slots: list[int] = []
        for row, slot in enumerate(batch):
            one, length = self._slots.get(slot), int(lengths.visible[row])
            if one is None:
                continue
            try:
                self._read(one.recalls, DeviceText(history, slot, one.known), length, set(here))
            except (AssistantFull, GuardError) as error:
                fail(slot, error)
                continue
            if length >= lengths.prefill[slot]:
                ready.append(Ready(row, one.recalls, length))
                slots.append(slot)
        if ready:
            last = [one.length - 1 for one in ready]
            at = to_device(np.array([slots, last], np.int64), history.device)
            take_off(logits, ready, history[at[0], at[1]].long())
        return len(ready)

    def _read(self, recalls: Recalls, text: DeviceText, length: int, here: set[int]) -> None:
        while True:
            try:
                return recalls.read(text, length)
            except AssistantFull:
                if not self._give_up_one(here):
                    raise

    def _give_up_one(self, here: set[int]) -> bool:
        """Take the memory of the slot that was away for longest; False: there is none."""
        for slot, one in self._slots.items():
            if slot not in here and one.recalls.holds:
                one.recalls.release()
                return True
        return False
