"""What the device found, brought to the ledger without a step waiting for it.

Counters and closed slots are one small tensor on the device. Each step copies it into pinned memory
behind its own kernels and hands an event to a thread, which waits for the event and writes what is
new into the ledger: well before the tokens of the step have reached a client. Values only grow or
are replaced whole, so reading while a later step's copy arrives is no harm.
"""

from __future__ import annotations

import logging
import queue
import threading

import numpy as np
import torch

from guard.device_filter import NUM_COUNTERS
from guard.ledger import CloseReason, Counter, LedgerWriter

logger = logging.getLogger(__name__)


class DeviceReport:
    """Reads `DeviceFilter.report`. On the CPU it does so at once, without a thread."""

    def __init__(self, report: torch.Tensor, ledger: LedgerWriter) -> None:
        self._device = report
        self._ledger = ledger
        self._on_gpu = report.device.type == "cuda"
        self._host = (
            torch.zeros(report.shape, dtype=report.dtype, pin_memory=True)
            if self._on_gpu
            else report
        )
        self._known = np.zeros(report.shape, np.int64)
        self._events: queue.SimpleQueue[torch.cuda.Event] = queue.SimpleQueue()
        if self._on_gpu:
            threading.Thread(target=self._run, name="device-report", daemon=True).start()

    def send(self) -> None:
        """Have the ledger brought up to date once the kernels launched so far are done."""
        if not self._on_gpu:
            self.read()
            return
        self._host.copy_(self._device, non_blocking=True)
        # Blocking: the waiting thread sleeps instead of spinning.
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        event.record()
        self._events.put(event)

    def read(self) -> None:
        """Write into the ledger what has changed since the last time."""
        found = self._host.numpy().copy()
        for counter in list(Counter)[:NUM_COUNTERS]:
            self._ledger.add(counter, int(found[counter] - self._known[counter]))
        facts, known = found[NUM_COUNTERS:], self._known[NUM_COUNTERS:]
        for slot in np.flatnonzero(facts != known).tolist():
            nonce, reason = divmod(int(facts[slot]), 8)
            known_nonce, known_reason = divmod(int(known[slot]), 8)
            if reason:
                self._ledger.close_slot(nonce, CloseReason(reason))
            elif known_reason and known_nonce == nonce:
                self._ledger.withdraw(nonce, CloseReason(known_reason))
        self._known = found

    def _run(self) -> None:
        while True:
            event = self._events.get()
            try:
                event.synchronize()
                self.read()
            except Exception:
                logger.exception("the device's report could not be read")
                return
