"""Work that grows with a body: of a long one it must not stall everybody's streams."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

_OFF_LOOP_BYTES = 256 * 1024

T = TypeVar("T")


async def off_loop(num_bytes: int, function: Callable[..., T], *args: Any) -> T:
    """Call a function whose work grows with `num_bytes`: of many, on a thread."""
    if num_bytes > _OFF_LOOP_BYTES:
        return await asyncio.to_thread(function, *args)
    return function(*args)
