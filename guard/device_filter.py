"""The token filter on the logits' device: no step waits for the host, whatever rows it has.

The same automaton as `guard.token_filter`, with each slot's position in tensors. The device takes
in the tokens that it sampled itself, so the host need not know them. A step is one kernel that
follows the text and one that forbids for each policy in the batch (one more where a policy has
penalties by meaning, or a table of registered n-grams), and one that ends closed rows.

On the CPU the kernels are `guard.device_reference`, on a GPU `guard.device_kernels`.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType

import numpy as np
import torch

from guard.device_policy import DevicePolicy, to_device
from guard.device_slots import NEVER, NOT_STEERED, UNSEEN, RowField, SlotField, Step
from guard.device_vocabulary import DeviceVocabulary
from guard.ledger import CloseReason, Counter
from guard.stream import CharClass

_NO_POLICY = 0
NUM_COUNTERS = int(Counter.VETOED_TOKENS) + 1


class DeviceFilter:
    """Slots on a device.

    Args:
        vocabulary: on the device.
        num_slots: how many requests the engine may have at once.
        end_id: the token that is forced when a slot is closed.
        kernels: for tests; else by the kind of the device.

    Attributes:
        slots: [num_slots, len(SlotField)] int64.
        report: [NUM_COUNTERS + num_slots] int64: the first `Counter`s, then for each slot
            nonce * 8 + `CloseReason`, 0 in its place when a closing has been withdrawn.
    """

    def __init__(
        self,
        vocabulary: DeviceVocabulary,
        num_slots: int,
        end_id: int,
        kernels: ModuleType | None = None,
    ) -> None:
        self._vocabulary = vocabulary
        self._end_id = end_id
        self._device = vocabulary.head.device
        self._kernels = kernels or _kernels_for(self._device)
        self.slots = torch.zeros(num_slots, len(SlotField), dtype=torch.int64, device=self._device)
        self.slots[:, SlotField.POLICY] = NOT_STEERED
        self.report = torch.zeros(NUM_COUNTERS + num_slots, dtype=torch.int64, device=self._device)
        self._staged: dict[int, list[int]] = {}

    def open_slot(self, slot: int, policy: DevicePolicy, active: int, nonce: int) -> None:
        """Steer a slot from now on by one of the policy's active sets, from its whole history."""
        self._stage(slot, policy.id, active, 0, nonce)

    def close_slot(self, slot: int, reason: CloseReason, nonce: int) -> None:
        """From now on the slot's rows can only end."""
        self._stage(slot, _NO_POLICY, 0, reason, nonce)

    def leave_slot(self, slot: int) -> None:
        """Leave the slot's rows alone."""
        self._stage(slot, NOT_STEERED, 0, 0, 0)

    def flush(self) -> None:
        """Bring opened, closed and left slots to the device, in the order of the stream."""
        if not self._staged:
            return
        places = to_device(np.array(list(self._staged), np.int64), self._device)
        values = to_device(np.array(list(self._staged.values()), np.int64), self._device)
        self.slots.index_copy_(0, places, values)
        self._staged.clear()

    def apply(
        self,
        logits: torch.Tensor,
        policies: Iterable[DevicePolicy],
        *,
        slot_of: torch.Tensor,
        local: torch.Tensor,
        inputs: torch.Tensor,
        tokens: torch.Tensor,
        prompt_len: torch.Tensor,
        total_len: torch.Tensor,
    ) -> None:
        """Forbid, in place, what each row may not take next. See `Step` for the arguments.

        `policies` are those of the slots in this batch. All rows of a slot must be there.
        """
        rows = torch.empty(logits.shape[0], len(RowField), dtype=torch.int64, device=logits.device)
        step = Step(
            logits,
            slot_of,
            local,
            inputs,
            tokens,
            prompt_len,
            total_len,
            rows,
            self.slots,
            self.report,
        )
        for policy in policies:
            self._kernels.follow(step, policy, self._vocabulary)
            if policy.sets.has_penalties:
                self._kernels.penalise(step, policy)
            self._kernels.forbid(step, policy, self._vocabulary)
            if policy.veto is not None:
                self._kernels.veto(step, policy, policy.veto, self._vocabulary)
        self._kernels.settle(step, self._end_id)

    def shut(self, logits: torch.Tensor, slot_of: torch.Tensor) -> None:
        """End all steered rows of a step: for when it could not be guarded.

        `logits` [rows, V] are changed in place; `slot_of` [rows] gives each row's slot.
        """
        steered = self.slots[slot_of.long(), SlotField.POLICY] != NOT_STEERED
        logits.masked_fill_(steered[:, None], float("-inf"))
        logits[:, self._end_id].masked_fill_(steered, 0.0)

    def warm_up(self, example: DevicePolicy) -> None:
        """Compile the kernels before a request waits for them. All slots are empty afterwards."""
        self.open_slot(0, example, 0, 0)
        self.flush()
        one = torch.ones(1, dtype=torch.int32, device=self._device)
        self.apply(
            torch.zeros(1, self._vocabulary.size, device=self._device),
            [example],
            slot_of=torch.zeros(1, dtype=torch.int64, device=self._device),
            local=torch.zeros_like(one),
            inputs=torch.zeros_like(one),
            tokens=torch.zeros(1, 1, dtype=torch.int32, device=self._device),
            prompt_len=one,
            total_len=one,
        )
        self.leave_slot(0)
        self.flush()
        self.report.zero_()

    def _stage(self, slot: int, policy: int, active: int, closed: int, nonce: int) -> None:
        self._staged[slot] = [
            policy,
            active,
            0,
            int(CharClass.OTHER),
            0,
            UNSEEN,
            int(closed),
            NEVER,
            nonce,
        ]


def _kernels_for(device: torch.device) -> ModuleType:
    if device.type == "cuda":
        from guard import device_kernels

        return device_kernels
    from guard import device_reference

    return device_reference
