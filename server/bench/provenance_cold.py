"""What searching an index costs that is not in memory: its files dropped from the page cache."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from server.bench.figures import spread
from tracing.container import Array
from tracing.index import Index, View
from tracing.matching import maximal_spans, occurrences, streamed_lengths
from tracing.words import WordView

_BATCH = 64
_WIDTH = 64


def cold_figures(
    directory: Path, queries: Sequence[str], words: WordView, depth: int
) -> dict[str, Any]:
    """Wall time and disk reads of each output's spans, and of a step of 64 rows, from disk."""
    outputs = [words.symbols(query)[:1000] for query in queries]
    rows = np.zeros((_BATCH, _WIDTH), np.uint32)
    sizes = np.full(_BATCH, _WIDTH, np.int64)
    spans, steps = [], []
    for number, output in enumerate(outputs):
        spans.append(_cold(directory, words, partial(_spans, output, depth)))
        for i in range(_BATCH):
            stream = outputs[(number + i) % len(outputs)]
            at = (331 * i + number) % max(1, len(stream) - _WIDTH)
            part = stream[at : at + _WIDTH]
            rows[i, _WIDTH - len(part) :] = part
        steps.append(_cold(directory, words, partial(_step, rows, sizes, depth)))
    return _figures("cold_spans", spans) | _figures("cold_step", steps)


def _spans(output: Array, depth: int, view: View) -> None:
    for span in maximal_spans(view, output, depth):
        occurrences(view, output, span)


def _step(rows: Array, sizes: Array, depth: int, view: View) -> None:
    streamed_lengths(view, rows, sizes, depth)


def _cold(directory: Path, words: WordView, search: Callable[[View], object]) -> tuple[float, int]:
    """Milliseconds and page faults that waited for the disk."""
    for path in directory.glob("*.segment"):
        # Only what no process has mapped is dropped: the index is opened anew behind it.
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)
    view = Index(directory, words, read_only=True, verify=False).view
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_majflt, time.perf_counter()
    search(view)
    seconds = time.perf_counter() - begin
    return 1000 * seconds, resource.getrusage(resource.RUSAGE_SELF).ru_majflt - before


def _figures(name: str, found: Sequence[tuple[float, int]]) -> dict[str, Any]:
    times, reads = zip(*found, strict=True)
    return {
        **spread(f"{name}_ms", list(times)),
        f"{name}_ms_p99": round(float(np.percentile(times, 99)), 3),
        f"{name}_reads": float(np.median(reads)),
    }
