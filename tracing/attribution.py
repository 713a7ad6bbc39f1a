"""TraceShield's judgement of an output: which of its spans come from registered documents, and
which of them are too long and too rare to be given away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tracing.bci import BestWindow, Nats, best_window, raw_bci
from tracing.container import Array
from tracing.index import View
from tracing.matching import (
    Holder,
    Occurrence,
    Span,
    matched_lengths,
    maximal_spans,
    occurrences,
)


@dataclass(frozen=True, slots=True)
class Limits:
    """When a span is refused.

    Attributes:
        minimum: shortest span in words; an output of fewer words counts as a whole.
        threshold: the best window's nats per word must exceed it; calibrate it.
        max_frequency: a span that occurs more often is boilerplate; None: no such limit.
        max_documents: occurrences to report per span.
    """

    minimum: int = 8
    threshold: float = 0.0
    max_frequency: int | None = None
    max_documents: int = 10


@dataclass(frozen=True, slots=True)
class Attribution:
    """A span of an output with its scores and sources.

    `raw` is the published BCI in nats; `best` the best window, in words of the output. A span that
    is not refused is reported for the audit only.
    """

    span: Span
    raw: float
    best: BestWindow
    refused: bool
    sources: tuple[Occurrence, ...]


def attribute(
    view: View | Holder,
    output: Array,
    surprisal: Nats,
    limits: Limits,
    allowed: Sequence[View] = (),
) -> list[Attribution]:
    """All maximal spans of an output with their judgement, in order.

    Args:
        view: the index of registered documents, here or on other machines.
        output: [n] symbols.
        surprisal: [n] nats of each word under a background corpus.
        limits: see there.
        allowed: indexes of what may be given away although it is registered: licences, quotations.
            Windows of `limits.minimum` words that they hold are taken out of every span, so a rare
            continuation of a licence is still found.
    """
    free = _allowed_ends(output, limits.minimum, allowed)
    found = []
    for span in maximal_spans(view, output, limits.minimum):
        pieces = _pieces(span, free, limits.minimum)
        if not pieces:
            continue
        best = max((_best(surprisal, a, b, limits.minimum) for a, b in pieces), key=_nats)
        common = limits.max_frequency is not None and span.count > limits.max_frequency
        refused = best.nats > limits.threshold and not common
        sources = tuple(occurrences(view, output, span, limits.max_documents))
        raw = raw_bci(surprisal[span.start : span.end])
        found.append(Attribution(span, raw, best, refused, sources))
    return found


def score(attributions: list[Attribution]) -> float:
    """An output's score for `tracing.bci.calibrate`; minus infinity where nothing matches."""
    return max((found.best.nats for found in attributions), default=float("-inf"))


def _allowed_ends(output: Array, minimum: int, allowed: Sequence[View]) -> Array:
    """Per place whether the window of `minimum` words that ends there may be given away."""
    minimum = max(1, min(minimum, len(output)))
    free = np.zeros(len(output), np.bool_)
    for view in allowed:
        free |= matched_lengths(view, output, minimum) > 0
    return free


def _pieces(span: Span, free: Array, minimum: int) -> list[tuple[int, int]]:
    """What is left of a span without its free windows, as word ranges of the output."""
    minimum = min(minimum, span.length)
    held = ~free[span.start + minimum - 1 : span.end]
    edges = np.flatnonzero(np.diff(np.concatenate([[False], held, [False]]).astype(np.int8)))
    first = (edges[::2] + span.start).tolist()
    last = (edges[1::2] + span.start + minimum - 1).tolist()
    return list(zip(first, last, strict=True))


def _best(surprisal: Nats, start: int, end: int, minimum: int) -> BestWindow:
    window = best_window(surprisal[start:end], minimum)
    return BestWindow(window.start + start, window.end + start, window.nats)


def _nats(window: BestWindow) -> float:
    return window.nats
