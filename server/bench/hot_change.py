"""What running rows notice when a new policy is loaded and first used beside them."""

from __future__ import annotations

import threading
import time

import torch

from guard.follower import Active
from guard.params import GuardParams
from server.bench.step_cost import SteeredBatch

_STEPS = 300


def hot_change(
    batch: SteeredBatch, logits: torch.Tensor, digest: str, unknown: str
) -> dict[str, float]:
    """Milliseconds of wall time: a policy is preloaded while the batch goes on, then used.

    `change_longest_step_ms` is the longest step while the policy was loading, beside
    `quiet_longest_step_ms`, that of as many steps without; `change_first_request_ms` is what the
    first request on the new policy adds to its step, `not_preloaded_request_ms` what one on
    `unknown` adds, a policy that was not loaded before.
    """
    during = []
    loading = threading.Thread(target=batch.steering.preload, args=(Active(2, digest),))
    loading.start()
    while loading.is_alive():
        during.append(_step(batch, logits))
    loading.join()
    quiet = [_step(batch, logits) for _ in range(_STEPS)]
    longest = max(quiet[: max(len(during), 1)])
    first = _first_request(batch, logits, digest) - sorted(quiet)[_STEPS // 2]
    cold = _first_request(batch, logits, unknown) - sorted(quiet)[_STEPS // 2]
    return {
        "quiet_longest_step_ms": longest,
        "change_longest_step_ms": max(during, default=0.0),
        "change_steps": float(len(during)),
        "change_first_request_ms": first,
        "not_preloaded_request_ms": cold,
    }


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
