"""Time on a CUDA device: by events, with caches emptied and the host ahead of the device."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from server.bench.errors import ArmInvalid, DeviceMissing

_STREAM_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Launch:
    """One call: microseconds that the device worked, and that the host took to ask it to."""

    device_us: float
    host_us: float


@dataclass(frozen=True, slots=True)
class Kernels:
    """What the device ran in one call: how many kernels and copies, and each kernel's time."""

    kernels: float
    copies: float
    microseconds: dict[str, float]


def cuda_device() -> torch.device:
    """The current CUDA device.

    Raises:
        DeviceMissing: torch finds none.
    """
    if not torch.cuda.is_available():
        raise DeviceMissing("there is no CUDA device here, or torch was built without CUDA")
    return torch.device("cuda", torch.cuda.current_device())


class Stopwatch:
    """Times calls on a device.

    Before each call the device is given a gigabyte to overwrite: its caches then hold nothing of
    the last call, as after a forward pass, and it is still busy when the host has launched
    everything, so that the time between two events is the device's own.
    """

    def __init__(self, device: torch.device) -> None:
        self._busy = torch.ones(_STREAM_BYTES, dtype=torch.uint8, device=device)
        self._other = torch.empty_like(self._busy)

    def bandwidth(self) -> float:
        """Bytes a second that the device copies, counting what it reads and what it writes."""
        times = []
        for _ in range(20):
            start, end = _event(), _event()
            start.record()
            self._other.copy_(self._busy)
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end))
        return float(2000 * _STREAM_BYTES / min(times))

    def measure(
        self, call: Callable[[], object], times: int, between: Callable[[], object] = lambda: None
    ) -> list[Launch]:
        """Time a call, which may not wait for the device; `between` comes before each.

        Raises:
            ArmInvalid: the host was too slow to stay ahead of the device.
        """
        found: list[Launch] = []
        for _ in range(4 * times):
            between()
            self._other.copy_(self._busy)
            self._other.add_(1)
            start, end = _event(), _event()
            start.record()
            with no_waiting():
                begin = time.perf_counter()
                call()
                host_us = 1e6 * (time.perf_counter() - begin)
            end.record()
            overtaken = start.query()
            torch.cuda.synchronize()
            if not overtaken:
                found.append(Launch(1000 * start.elapsed_time(end), host_us))
            if len(found) == times:
                return found
        raise ArmInvalid(f"the host fell behind the device in {4 * times - len(found)} calls")


@contextmanager
def no_waiting() -> Iterator[None]:
    """In here torch raises RuntimeError where the host would wait for the device."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def kernels_of(call: Callable[[], object], times: int) -> Kernels:
    """Have torch's profiler record what a call runs on the device, on average."""
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as recorded:
        for _ in range(times):
            call()
        torch.cuda.synchronize()
    on_device = [e for e in recorded.events() or () if e.device_type.name == "CUDA"]
    return count_kernels([(e.name, e.time_range.elapsed_us()) for e in on_device], times)


def count_kernels(events: list[tuple[str, float]], times: int) -> Kernels:
    """The same from the names and microseconds of what ran in so many calls."""
    ran: Counter[str] = Counter()
    took: dict[str, float] = {}
    for name, microseconds in events:
        ran["copies" if name.startswith("Mem") else "kernels"] += 1
        if not name.startswith("Mem"):
            short = re.split(r"[<(]", name)[0].split("::")[-1].strip("_ ")
            took[short] = took.get(short, 0.0) + microseconds / times
    return Kernels(ran["kernels"] / times, ran["copies"] / times, took)


def _event() -> Any:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
