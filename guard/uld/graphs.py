"""CUDA graphs of an assistant's decode pass: launched whole, without the host's work per kernel.

A graph is for a fixed number of rows and a fixed width of the cache, so a batch is padded to the
next larger one; rows that pad write into a spare block and are dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

MAX_ROWS = 64
MAX_BLOCKS = 512  # larger batches are decoded without a graph
_FIRST_BLOCKS = 8
_WARM = 2

# token ids [rows], positions [rows], blocks [rows, width] -> logits [rows, vocabulary]
Pass = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class _Captured:
    """A graph and the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    tokens: torch.Tensor
    positions: torch.Tensor
    table: torch.Tensor


class Graphs:
    """One graph for each padded number of rows and each padded width.

    Args:
        run: the pass; on tensors only, without waiting for the device.
        rows: most rows of a batch.
        blocks: most blocks of all rows of a batch, each as wide as the widest.
        spare: the block that padding rows write into.
    """

    def __init__(
        self, run: Pass, *, rows: int, blocks: int, spare: int, device: torch.device
    ) -> None:
        """Capture all of them.

        Raises:
            RuntimeError: the pass cannot be captured.
        """
        self._spare = spare
        self._logits = torch.empty(0, device=device)
        counts = doubled(1, min(rows, MAX_ROWS))
        widths = doubled(_FIRST_BLOCKS, min(blocks, MAX_BLOCKS))
        self._pool = torch.cuda.graph_pool_handle()
        # The widest first: its memory serves the others.
        self._graphs = {
            (count, width): self._capture(run, count, width, device)
            for count in reversed(counts)
            for width in reversed(widths)
            if count * width <= max(blocks, _FIRST_BLOCKS)
        }

    def width(self, rows: int, blocks: int) -> int | None:
        """The width to which a batch's table has to be padded; None: there is no graph for it."""
        width = padded(blocks, _FIRST_BLOCKS)
        return width if (padded(rows), width) in self._graphs else None

    def run(
        self, tokens: torch.Tensor, positions: torch.Tensor, table: torch.Tensor
    ) -> torch.Tensor:
        """Logits [rows, vocabulary] for a table of `width`; the next call overwrites them."""
        rows, width = table.shape
        one = self._graphs[padded(rows), width]
        one.tokens[:rows].copy_(tokens)
        one.positions[:rows].copy_(positions)
        one.positions[rows:].zero_()
        one.table[:rows].copy_(table)
        one.table[rows:].fill_(self._spare)
        one.graph.replay()
        return self._logits[:rows]

    def _capture(self, run: Pass, rows: int, width: int, device: torch.device) -> _Captured:
        tokens = torch.zeros(rows, dtype=torch.int64, device=device)
        positions = torch.zeros_like(tokens)
        table = torch.full((rows, width), self._spare, dtype=torch.int64, device=device)
        side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(_WARM):
                logits = run(tokens, positions, table)
            if not self._logits.numel():
                self._logits = torch.empty_like(logits)
            # Not by `torch.cuda.graph`, which collects garbage and empties the allocator's cache
            # each time: the engine is serving meanwhile, in another thread, on the same device.
            graph = torch.cuda.CUDAGraph()
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                self._logits[:rows].copy_(run(tokens, positions, table))
            finally:
                graph.capture_end()
        torch.cuda.current_stream(device).wait_stream(side)
        return _Captured(graph, tokens, positions, table)


def padded(size: int, first: int = 1) -> int:
    """The least of first, 2 first, 4 first, ... that is not below `size`."""
    while first < size:
        first *= 2
    return first


def doubled(first: int, most: int) -> list[int]:
    """All of first, 2 first, 4 first, ... up to one that is not below `most`."""
    found = [first]
    while found[-1] < most:
        found.append(found[-1] * 2)
    return found
