"""What running rows notice when a new policy is loaded and first used beside them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

import torch

from guard.follower import Active
from guard.params import GuardParams
from server.bench.figures import spread
from server.bench.step_cost import SteeredBatch

CHANGES = 7
_STEPS = 300


class Change(NamedTuple):
    """One change of policy, milliseconds of wall time.

    `longest` is the longest step while the policy was loading, which took `load`, and `quiet` that
    in as much time without; `first_request` is what the first request on it added to its step.
    """

    load: float
    longest: float
    quiet: float
    first_request: float


def hot_change(
    new_batch: Callable[[], SteeredBatch],
    logits: torch.Tensor,
    digest: str,
    name: str,
    changes: int = CHANGES,
) -> dict[str, float]:
    """Load a policy beside a running batch and use it, several times, each in a worker of its own.

    Gives medians and extremes, milliseconds of wall time, under keys that end with `name`:
    `change_load_ms`, `change_longest_step_ms`, `quiet_longest_step_ms`, `change_first_request_ms`.
    """
    found = [_change(new_batch(), logits, digest) for _ in range(changes)]
    return (
        spread(f"change_load_ms_{name}", [c.load for c in found], 1)
        | spread(f"change_longest_step_ms_{name}", [c.longest for c in found], 3)
        | spread(f"quiet_longest_step_ms_{name}", [c.quiet for c in found], 3)
        | spread(f"change_first_request_ms_{name}", [c.first_request for c in found], 3)
    )


def unloaded_request(
    new_batch: Callable[[], SteeredBatch], logits: torch.Tensor, digest: str, changes: int = CHANGES
) -> dict[str, float]:
    """What a request adds to its step whose policy this worker has not loaded, milliseconds."""
    found = []
    for _ in range(changes):
        batch = new_batch()
        quiet = median(_step(batch, logits) for _ in range(_STEPS))
        found.append(_first_request(batch, logits, digest) - quiet)
    return spread("not_preloaded_request_ms", found, 3)


def _change(batch: SteeredBatch, logits: torch.Tensor, digest: str) -> Change:
    for _ in range(_STEPS):
        _step(batch, logits)
    during = []
    loading = threading.Thread(target=batch.steering.preload, args=(Active(2, digest),))
    begin = time.perf_counter()
    loading.start()
    while loading.is_alive():
        during.append(_step(batch, logits))
    loading.join()
    load = 1e3 * (time.perf_counter() - begin)
    quiet = [_step(batch, logits)]
    end = time.perf_counter() + 1e-3 * load
    while time.perf_counter() < end:
        quiet.append(_step(batch, logits))
    first = _first_request(batch, logits, digest) - median(quiet)
    return Change(load, max(during, default=0.0), max(quiet), first)


def _step(batch: SteeredBatch, logits: torch.Tensor) -> float:
    begin = time.perf_counter()
    batch.step(logits)
    return 1e3 * (time.perf_counter() - begin)


def _first_request(batch: SteeredBatch, logits: torch.Tensor, digest: str) -> float:
    """Replace one row's request by one on another policy; milliseconds until its step is done."""
    row = len(batch.outputs) - 1
    params = GuardParams(digest, 1 << 40, (0,))
    begin = time.perf_counter()
    batch.steering.release(batch.slots[row])
    batch.slots[row] = batch.steering.open_slot(params, (), batch.outputs[row], constrained=False)
    batch.step(logits)
    return 1e3 * (time.perf_counter() - begin)
