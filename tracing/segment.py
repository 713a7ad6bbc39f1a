"""A segment: some documents, reversed and suffix-sorted, in one immutable file.

Eight bytes per word for text and suffix array and one and a half for the gate, beside the
documents' own records. Opening maps the file; nothing is read until it is searched or verified.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tracing.container import Array, Container, open_container, write_container
from tracing.document import Document
from tracing.errors import IndexCorrupt, TooLong
from tracing.gate import build_gate
from tracing.search import rank_symbols
from tracing.sorting import suffix_array

MAX_WORDS = 1 << 30
_EMPTY = np.empty(0, np.uint8)


@dataclass(frozen=True, slots=True)
class Entry:
    """A document on its way into a segment; `symbols` [n], in the order of the text, none 0."""

    document_id: int
    symbols: Array
    record: bytes


@dataclass(frozen=True, slots=True)
class Segment:
    """An open segment. The arrays are those of `tracing.search`; D documents."""

    name: str
    container: Container
    text: Array
    suffixes: Array
    symbols: Array
    first: Array
    buckets: Array
    gate: Array
    starts: Array  # [D] int64, each document's first place in `text`
    sizes: Array  # [D] int32, in words
    ids: Array  # [D] int64, ascending
    record_at: Array  # [D + 1] int64
    records: Array  # uint8
    shift: int
    depth: int
    short: int  # bit k: there are documents of k words; up to 62
    dead: Array = field(default_factory=lambda: _EMPTY)  # [n / 8] uint8, or none
    withdrawn: frozenset[int] = frozenset()

    @property
    def words(self) -> int:
        """Words of all documents, withdrawn ones too."""
        return int(self.text.shape[0]) - int(self.starts.shape[0]) - 1

    @property
    def live_words(self) -> int:
        """Words of the documents that are not withdrawn."""
        rows = [self.row(document_id) for document_id in self.withdrawn]
        return self.words - (int(self.sizes[rows].sum()) if rows else 0)

    def without(self, ids: Iterable[int]) -> Segment:
        """The same segment with these documents withdrawn, and only these."""
        gone = frozenset(i for i in ids if self.row(i) >= 0)
        if gone == self.withdrawn:
            return self
        bits = np.zeros(self.text.shape[0], np.bool_) if gone else np.zeros(0, np.bool_)
        for row in map(self.row, gone):
            start = int(self.starts[row])
            bits[start : start + int(self.sizes[row])] = True
        return replace(self, dead=np.packbits(bits, bitorder="little"), withdrawn=gone)

    def row(self, document_id: int) -> int:
        """The row of a document in `ids`, or -1."""
        row = int(np.searchsorted(self.ids, document_id))
        return row if row < len(self.ids) and int(self.ids[row]) == document_id else -1

    def live_ids(self) -> list[int]:
        """Numbers of the documents that are not withdrawn."""
        return [i for i in self.ids.tolist() if i not in self.withdrawn]

    def locate(self, places: Array, length: int) -> list[tuple[int, int]]:
        """Document number and first word of each match of `length` words at these places."""
        rows = np.searchsorted(self.starts, places, side="right") - 1
        word = self.sizes[rows] - (places - self.starts[rows]) - length
        return list(zip(self.ids[rows].tolist(), word.tolist(), strict=True))

    def document(self, row: int) -> Document:
        """The document of a row; its text is "" where the index keeps none."""
        raw = bytes(self.records[int(self.record_at[row]) : int(self.record_at[row + 1])])
        return Document(**json.loads(raw))

    def entries(self) -> Iterable[Entry]:
        """The live documents, to build another segment of."""
        with self.container.read_through():
            for row, document_id in enumerate(self.ids.tolist()):
                if document_id not in self.withdrawn:
                    start, at = int(self.starts[row]), self.record_at[row : row + 2].tolist()
                    symbols = self.text[start : start + int(self.sizes[row])][::-1]
                    yield Entry(document_id, symbols, bytes(self.records[at[0] : at[1]]))


def record(document: Document, *, keep_text: bool) -> bytes:
    """What a segment keeps of a document beside its symbols."""
    kept = {"source": document.source, "metadata": document.metadata}
    return json.dumps({"text": document.text if keep_text else "", **kept}).encode()


def write_segment(path: Path, entries: Sequence[Entry], *, depth: int) -> int:
    """Sort documents, with ascending numbers, into a new file; gives its checksum.

    Raises:
        TooLong: more words than a segment may hold.
    """
    text, starts, sizes = reversed_text([entry.symbols for entry in entries])
    symbols, counts, buckets, shift = _alphabet(text)
    ranks = np.empty(text.shape[0], np.int32)
    rank_symbols(text, symbols, buckets, shift, ranks)
    suffixes = suffix_array(ranks, symbols.shape[0])
    del ranks
    first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    lengths = [len(entry.record) for entry in entries]
    arrays: dict[str, Array] = {
        "text": text,
        "suffixes": suffixes,
        "symbols": symbols,
        "first": first,
        "buckets": buckets,
        "gate": build_gate(text, depth),
        "starts": starts,
        "sizes": sizes,
        "ids": np.array([entry.document_id for entry in entries], np.int64),
        "record_at": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        "records": np.frombuffer(b"".join(entry.record for entry in entries), np.uint8),
    }
    return write_container(path, {"shift": shift, "depth": depth}, arrays)


def open_segment(path: Path) -> Segment:
    """Map a segment file.

    Raises:
        IndexMissing: there is no such file.
        IndexCorrupt: it is damaged, or no segment.
    """
    container = open_container(path)
    try:
        short = _short(container.arrays["sizes"])
        fields = {**container.arrays, **container.meta, "short": short}
        return Segment(path.name, container, **fields)
    except (KeyError, TypeError):
        raise IndexCorrupt(f"{path.name} is not a segment") from None


def reversed_text(
    documents: Sequence[Array],
) -> tuple[Array, npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Separator, then each document backwards and a separator; with the places and sizes, [n] each.

    The text is uint16 where every symbol fits, else uint32.

    Raises:
        TooLong: a segment cannot hold so many words.
    """
    sizes = np.array([len(document) for document in documents], np.int32)
    starts = np.concatenate([[0], np.cumsum(sizes.astype(np.int64) + 1)])[:-1] + 1
    total = int(sizes.sum(dtype=np.int64)) + len(documents) + 1
    if total > MAX_WORDS:
        raise TooLong(f"{total} words, a segment holds {MAX_WORDS}")
    largest = max((int(d.max()) for d in documents if len(d)), default=0)
    text = np.zeros(total, np.uint16 if largest < 1 << 16 else np.uint32)
    for start, size, document in zip(starts.tolist(), sizes.tolist(), documents, strict=True):
        text[start : start + size] = document[::-1]
    return text, starts.astype(np.int64), sizes


def _short(sizes: Array) -> int:
    counts = np.bincount(np.minimum(sizes, 63), minlength=64)[1:63]
    return sum(1 << size for size, count in enumerate(counts.tolist(), 1) if count)


def _alphabet(text: Array) -> tuple[Array, Array, npt.NDArray[np.int32], int]:
    """The symbols of a text, sorted, with their counts and a table over their leading bits."""
    ordered = np.sort(text)
    edges = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    symbols = ordered[edges]
    counts = np.diff(np.append(edges, len(ordered)))
    # About one symbol per bucket where symbols are spread evenly, as hashes are.
    shift = max(0, int(symbols[-1]).bit_length() - len(symbols).bit_length())
    heads = symbols.astype(np.int64) >> shift
    buckets = np.searchsorted(heads, np.arange(int(heads[-1]) + 2)).astype(np.int32)
    return symbols, counts, buckets, shift


def describe(segment: Segment) -> dict[str, Any]:
    """Sizes of a segment, for statistics: documents, words and bytes."""
    return {
        "documents": len(segment.ids),
        "withdrawn": len(segment.withdrawn),
        "words": segment.words,
        "bytes": segment.container.bytes,
    }
