"""Launching Triton kernels at little cost for the host.

Triton looks at every argument of every launch, and compares every constant that a kernel knows with
what it was when it was compiled: about 70 µs a launch with 30 arguments, which the engine's step
waits for. Here a compiled kernel is looked up by what it was compiled for and launched as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import triton


class Kernel:
    """A Triton kernel whose numbers and tensors may have any value and any address.

    Nothing is specialised but for the tensors' types, so one compiled kernel serves all calls with
    tensors of the same types on one device.

    Args:
        function: the kernel.
        numbers: names of its arguments that are no tensors, each an int of 32 bits.
        warps: of a program.

    Attributes:
        jit: Triton's own function.
    """

    def __init__(
        self, function: Callable[..., Any], numbers: tuple[str, ...], *, warps: int
    ) -> None:
        names = function.__code__.co_varnames[: function.__code__.co_argcount]
        tensors = tuple(name for name in names if name not in numbers)
        made = triton.jit(do_not_specialize=numbers, do_not_specialize_on_alignment=tensors)
        self.jit = cast(Any, made)(function)
        self.warps = warps
        self._compiled: dict[tuple[object, ...], Any] = {}

    def launch(
        self, rows: int, parts: int, first: torch.Tensor, *others: torch.Tensor | int
    ) -> None:
        """Run rows * parts programs, in the order of the current stream; all on one device."""
        arguments = (first, *others)
        types = [one.dtype for one in arguments if isinstance(one, torch.Tensor)]
        key = (first.device, *types)
        compiled = self._compiled.get(key)
        if compiled is not None:
            compiled[rows, parts, 1](*arguments)
            return
        # The interpreter compiles nothing and gives None.
        compiled = self.jit[(rows, parts)](*arguments, num_warps=self.warps)
        if compiled is not None:
            self._compiled[key] = compiled


def kernel(*numbers: str, warps: int) -> Callable[[Callable[..., Any]], Kernel]:
    """Decorator for `Kernel`."""
    return lambda function: Kernel(function, numbers, warps=warps)
