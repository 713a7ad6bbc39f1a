"""A decode step where the device samples: the worker's own code over texts that tempt the filter.

The texts lie on the device and grow by one token a step without a kernel of the bench's own.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from guard.device_steering import DeviceSteering
from guard.ledger import Counter, LedgerReader, LedgerWriter
from guard.params import GuardParams
from guard.vocabulary import Vocabulary
from server.bench.errors import ArmInvalid
from server.bench.step_cost import ALL

_PATIENCE_SECONDS = 5.0


class DeviceWorker:
    """The guard of one worker whose engine samples on a device; it finds its policies in `state`.

    Attributes:
        slots: how many requests it may have at once.
    """

    def __init__(
        self, state: Path, vocabulary: Vocabulary, slots: int, device: torch.device
    ) -> None:
        self.slots = slots
        self.device = device
        self.vocabulary = vocabulary
        self.steering = DeviceSteering(
            state, vocabulary, [2], LedgerWriter(state / "facts"), num_slots=slots, device=device
        )
        self._facts = LedgerReader(state / "facts")

    @property
    def forbidden(self) -> int:
        """Tokens forbidden in the rows that have been reported."""
        return self._facts.total(Counter.FORBIDDEN_TOKENS)

    @property
    def guarded(self) -> int:
        """Rows that have been guarded and reported; the report follows the device by a moment."""
        return self._facts.total(Counter.STEERED_STEPS)

    def check(self, guarded: int) -> None:
        """Wait until so many rows are reported. A step that fails closes its rows instead.

        Raises:
            ArmInvalid: there were not as many.
        """
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while self.guarded != guarded and time.monotonic() < deadline:
            time.sleep(0.001)
        if self.guarded != guarded:
            raise ArmInvalid(f"{self.guarded} rows were guarded and {guarded} should have been")


class DeviceBatch:
    """Some requests in a worker, all steered by all phrases of one policy.

    Args:
        texts: one token list per row, equally long. A step reads the next token of each.
    """

    def __init__(self, worker: DeviceWorker, digest: str, texts: Sequence[Sequence[int]]) -> None:
        self.rows = len(texts)
        self._worker = worker
        for slot in range(worker.slots):
            worker.steering.leave_slot(slot)
        for slot in range(self.rows):
            worker.steering.open_slot(slot, GuardParams(digest, slot + 1, (ALL,)))
        worker.steering.flush()
        history = np.zeros((worker.slots, len(texts[0])), np.int32)
        history[: self.rows] = texts
        device = worker.device
        self._host_slots = np.arange(self.rows)
        self._slot_of = torch.arange(self.rows, device=device)
        self._zeros = torch.zeros(self.rows, dtype=torch.int32, device=device)
        self._tokens = torch.from_numpy(history).to(device)
        # One line per step: a text is longer by one token where the next line is passed.
        lengths = torch.arange(len(texts[0]) + 1, dtype=torch.int32, device=device)
        self._lengths = lengths[:, None].expand(-1, worker.slots).contiguous()
        self._prompt_len = self._lengths[0]
        self._seen = 0

    @property
    def left(self) -> int:
        """How many steps the texts still have."""
        return len(self._lengths) - 1 - self._seen

    def step(self, logits: torch.Tensor) -> None:
        """Give every row its next token and guard the batch: the worker's whole step."""
        self._seen += 1
        self._worker.steering.apply(
            logits,
            self._host_slots,
            slot_of=self._slot_of,
            local=self._zeros,
            inputs=self._zeros,
            tokens=self._tokens,
            prompt_len=self._prompt_len,
            total_len=self._lengths[self._seen],
        )
