"""All maximal spans of an output that occur verbatim in an index, and where they come from.

A match is longest at its end: `ends` gives, per place of the output, the longest match that ends
there. A span is maximal where the next place's match does not contain it. Over several segments the
longest match is the longest of any, and its count the sum over the segments that have it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tracing.container import Array
from tracing.index import View
from tracing.search import (
    is_dead,
    match_ends,
    match_rows,
    match_short,
    span_ranges,
    whole_documents,
)
from tracing.segment import Segment

Lengths = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Span:
    """Words start .. end (exclusive) of an output, which occur `count` times in live documents.

    `whole`: they are whole documents, shorter than the minimum; `count` then counts these alone.
    """

    start: int
    end: int
    count: int
    whole: bool = False

    @property
    def length(self) -> int:
        """In words."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Occurrence:
    """A span's words in a document: word `first` of it and the following ones."""

    document_id: int
    first: int


class Holder(Protocol):
    """Who searches segments: this process a view's, or other machines theirs (`tracing.cluster`).

    Queries are [n] uint32 symbols; a run is given by the place that it ends at and its length.
    """

    def lengths(self, query: Array, minimum: int) -> tuple[Lengths, Lengths]:
        """`matched_lengths` and `short_lengths`, [n] int32 each."""
        ...

    def counts(
        self, query: Array, runs: tuple[Array, Array], whole: tuple[Array, Array]
    ) -> tuple[Int64, Int64]:
        """How often live documents have each run, and how many are one of `whole`; as int64."""
        ...

    def occurrences(self, query: Array, span: Span, limit: int) -> list[Occurrence]:
        """Up to `limit` live occurrences of a span."""
        ...


@dataclass(frozen=True, slots=True)
class Held:
    """A view's segments, searched here."""

    view: View

    def lengths(self, query: Array, minimum: int) -> tuple[Lengths, Lengths]:
        """See `Holder`."""
        return matched_lengths(self.view, query, minimum), short_lengths(self.view, query, minimum)

    def counts(
        self, query: Array, runs: tuple[Array, Array], whole: tuple[Array, Array]
    ) -> tuple[Int64, Int64]:
        """See `Holder`."""
        counts, copies = np.zeros(len(runs[0]), np.int64), np.zeros(len(whole[0]), np.int64)
        for segment in self.view.segments:
            counts += _ranges(segment, query, *runs)[1]
            copies += _copies(segment, query, *whole) if segment.short else 0
        return counts, copies

    def occurrences(self, query: Array, span: Span, limit: int) -> list[Occurrence]:
        """See `Holder`."""
        found: list[Occurrence] = []
        for segment in self.view.segments:
            places = _places(segment, query, span, limit - len(found))
            found += [Occurrence(*at) for at in segment.locate(places, span.length)]
            if len(found) >= limit:
                break
        return found


def matched_lengths(view: View, output: Array, minimum: int) -> Lengths:
    """Per place of an output, the longest match that ends there; 0 below `minimum`. [n] int32.

    Args:
        view: the index's state.
        output: [n] symbols of the index's encoder.
        minimum: shortest match; at least 1. Below the view's depth the gate cannot be asked, which
            makes ordinary text an order of magnitude dearer.
    """
    query = _query(output)
    lengths = np.zeros(len(query), np.int32)
    for s in view.segments:
        match_ends(*_tables(s), s.gate, s.dead, s.depth, max(1, minimum), query, lengths)
    return lengths


def streamed_lengths(view: View, rows: Array, sizes: Array, minimum: int) -> Lengths:
    """The longest match that ends at each row's newest symbol; 0 below `minimum`. [B] int32.

    Stateless: a row that was rolled back or moved needs no repair.

    Args:
        view: the index's state.
        rows: [B, W] uint32, the last symbols of each row, newest at the right. No match longer than
            W is told from one of W.
        sizes: [B] integers, how many symbols of each row are filled.
        minimum: shortest match.
    """
    lengths = np.zeros(rows.shape[0], np.int32)
    through = np.zeros(rows.shape[0], np.bool_)
    for s in view.segments:
        match_rows(
            *_tables(s), s.gate, s.dead, s.depth, max(1, minimum), rows, sizes, through, lengths
        )
    return lengths


def maximal_spans(view: View | Holder, output: Array, minimum: int) -> list[Span]:
    """All maximal matches of at least `minimum` symbols, in order, with their counts.

    An output shorter than `minimum` is looked up as a whole, so that a short answer is not free.
    Whole documents that are shorter than the minimum are found too.
    """
    holder, query = _holder(view), _query(output)
    minimum = max(1, min(minimum, len(query)))
    lengths, short = holder.lengths(query, minimum)
    ends, whole = maximal_ends(lengths), _outermost(short)
    runs, wholes = (ends, lengths[ends]), (whole, short[whole])
    counts, copies = holder.counts(query, runs, wholes)
    found = _spans(*runs, counts)
    kept = [
        span
        for span in _spans(*wholes, copies, whole=True)
        if not any(f.start <= span.start and span.end <= f.end for f in found)
    ]
    return sorted([*found, *kept], key=lambda span: span.start)


def short_lengths(view: View, output: Array, minimum: int) -> Lengths:
    """Per place, the longest whole document of fewer words than `minimum` that ends there.

    [n] int32, 0 where there is none.
    """
    lengths = np.zeros(len(output), np.int32)
    with_short = with_shorter(view, minimum)
    query = _query(output) if with_short else output
    for s in with_short:
        match_short(*_tables(s), s.gate, s.dead, s.depth, minimum, s.short, query, lengths)
    return lengths


def with_shorter(view: View, minimum: int) -> list[Segment]:
    """The segments that have whole documents of fewer words than `minimum`, at most 63."""
    return [segment for segment in view.segments if segment.short & ((1 << minimum) - 1)]


def count_window(view: View, output: Array, length: int) -> int:
    """How often the last `length` words of an output occur in live documents."""
    query = _query(output)
    ends, lengths = np.array([len(query) - 1]), np.array([length], np.int32)
    return sum(int(_ranges(segment, query, ends, lengths)[1][0]) for segment in view.segments)


def maximal_ends(lengths: Lengths) -> npt.NDArray[np.int64]:
    """The places [m] at which a maximal match ends, given the longest match of every place, [n]."""
    following = np.append(lengths[1:], np.int32(0))
    return np.flatnonzero((lengths > 0) & (following <= lengths))


def occurrences(
    view: View | Holder, output: Array, span: Span, limit: int = 10
) -> list[Occurrence]:
    """Up to `limit` live occurrences of a span of an output."""
    return _holder(view).occurrences(_query(output), span, limit)


def _places(segment: Segment, query: Array, span: Span, limit: int) -> npt.NDArray[np.int64]:
    """Live places of a span in one segment."""
    if span.whole:
        places = np.zeros(limit, np.int64)
        count = whole_documents(
            *_tables(segment), segment.dead, query, span.end - 1, span.length, places
        )
        return places[: min(limit, count)]
    ends, lengths = np.array([span.end - 1]), np.array([span.length], np.int32)
    ranges, _ = _ranges(segment, query, ends, lengths)
    low, high = ranges[0].tolist()
    return np.fromiter(_live(segment, low, high, limit), np.int64)


def _live(segment: Segment, low: int, high: int, limit: int) -> Iterator[int]:
    for rank in range(low, high):
        if limit <= 0:
            return
        place = int(segment.suffixes[rank])
        if not segment.withdrawn or not is_dead(segment.dead, place):
            limit -= 1
            yield place


def _holder(view: View | Holder) -> Holder:
    return Held(view) if isinstance(view, View) else view


def _spans(ends: Array, lengths: Array, counts: Array, *, whole: bool = False) -> list[Span]:
    rows = zip(ends.tolist(), lengths.tolist(), counts.tolist(), strict=True)
    return [Span(end + 1 - length, end + 1, count, whole) for end, length, count in rows]


def _outermost(lengths: Lengths) -> Int64:
    """The places at which a whole document ends that is in none that ends behind it."""
    found: list[int] = []
    first = len(lengths)
    for end in np.flatnonzero(lengths)[::-1].tolist():
        if end + 1 - int(lengths[end]) < first:
            first = end + 1 - int(lengths[end])
            found.append(end)
    return np.array(found[::-1], np.int64)


def _copies(segment: Segment, query: Array, ends: Array, lengths: Array) -> Int64:
    none = np.empty(0, np.int64)
    rows = zip(ends.tolist(), lengths.tolist(), strict=True)
    tables = (*_tables(segment), segment.dead, query)
    return np.array([whole_documents(*tables, *row, none) for row in rows], np.int64)


def _ranges(
    segment: Segment, query: Array, ends: Array, lengths: Array
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    ranges, counts = np.zeros((len(ends), 2), np.int64), np.zeros(len(ends), np.int64)
    span_ranges(*_tables(segment), segment.dead, query, ends, lengths, ranges, counts)
    return ranges, counts


def _tables(segment: Segment) -> tuple[Array, Array, Array, Array, Array, int]:
    s = segment
    return s.text, s.suffixes, s.symbols, s.first, s.buckets, s.shift


def _query(output: Array | Sequence[int]) -> npt.NDArray[np.uint32]:
    # One type for the compiled loops, and writable: numba compiles read-only arrays separately.
    return np.array(output, np.uint32)
