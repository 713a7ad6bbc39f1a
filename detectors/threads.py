"""How many threads a product of the detectors may use beside a busy engine.

On busy cores the threads of one small product wait for each other's turn: on two full cores one
prompt took 1 s with two threads to encode and 0.08 s with one, and 10,000 rows took 2.8 ms to
compare instead of 0.3.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


def core_share() -> int:
    """Half of the cores, between one and four."""
    return max(1, min(4, (os.cpu_count() or 1) // 2))


def limit_products() -> None:
    """Let numpy's products use no more than a share of the cores, in the whole process."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(core_share(), user_api="blas")


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """So many torch threads meanwhile."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
