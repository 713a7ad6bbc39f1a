"""Documents to segment files: what an index adds by itself, and what may be done elsewhere."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tracing.container import Array, flush_directory
from tracing.document import Document
from tracing.manifest import SegmentName
from tracing.segment import Entry, record, write_segment


class Encoder(Protocol):
    """What turns a text into symbols: the word view, or a tokenizer."""

    @property
    def name(self) -> str:
        """Names what the symbols mean; an index of another name is refused."""

    def symbols(self, text: str) -> Array:
        """[n] unsigned 16 or 32 bits, none of them 0."""


@dataclass(frozen=True, slots=True)
class Built:
    """Segments that were written, and the number behind that of their last document.

    `withdrawn` are those of their documents that are not live.
    """

    segments: tuple[SegmentName, ...]
    next_id: int
    withdrawn: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the segments of one index are made; can be sent to another process.

    Attributes:
        directory: of the index.
        depth: shortest match that the gates serve.
        keep_text: keep the documents' text.
        segment_words: words of the largest segment.
    """

    directory: Path
    encoder: Encoder
    depth: int
    keep_text: bool
    segment_words: int

    def build(self, documents: Iterable[Document], first: int) -> Built:
        """Write documents, numbered from `first` on, into segments that no manifest names yet.

        Reads them as a stream: no more than one segment's words are in memory.
        """
        segments: list[SegmentName] = []
        for batch in self._batches(documents, first):
            segments.append(self.write(batch))
            first = batch[-1].document_id + 1
        return Built(tuple(segments), first)

    def write(self, entries: Sequence[Entry]) -> SegmentName:
        """Write one segment."""
        name = f"{uuid.uuid4().hex}.segment"
        checksum = write_segment(self.directory / name, entries, depth=self.depth)
        flush_directory(self.directory)
        return SegmentName(name, checksum, sum(len(entry.symbols) for entry in entries))

    def _batches(self, documents: Iterable[Document], number: int) -> Iterator[list[Entry]]:
        batch: list[Entry] = []
        words = 0
        for document in documents:
            symbols = self.encoder.symbols(document.text)
            if batch and words + len(symbols) > self.segment_words:
                yield batch
                batch, words = [], 0
            batch.append(Entry(number, symbols, record(document, keep_text=self.keep_text)))
            words += len(symbols)
            number += 1
        if batch:
            yield batch
