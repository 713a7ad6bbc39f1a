"""Where a text comes from: its spans that occur in the corpora, and the passages they are in.

As OLMoTrace shows it, with what the shield would say to each span. For admins only: whoever may ask
which words match, and where, can walk along a document without being shown any of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from guard.background import background, word_view
from server.errors import CorpusDamaged, NotFound
from server.provenance.groups import ITEM, TARGET
from server.provenance.library import Library
from server.provenance.publication import Publication
from server.provenance.registry import CorpusEntry
from server.provenance.schemas import AttributeOut, Label, SourceOut, SpanOut
from tracing.attribution import Attribution, Limits
from tracing.attribution import attribute as attribute_words
from tracing.document import Document
from tracing.errors import UnknownDocument
from tracing.index import View
from tracing.judge import Judge, Trail, Watched
from tracing.matching import Occurrence
from tracing.words import Words

_CONTEXT_CHARS = 200

# The text of a target's document, by the target's id and the document's place.
TargetText = Callable[[str, int], str]


class Attributor:
    """Attributes texts to the documents that are in force."""

    def __init__(self, library: Library, publication: Publication, target_text: TargetText) -> None:
        self._library, self._publication, self._target_text = library, publication, target_text

    def attribute(self, text: str, corpus: str | None) -> AttributeOut:
        """All maximal spans of a text that occur in the corpora, or in one of them.

        Args:
            text: what a model said.
            corpus: the id of the only corpus to look in.

        Raises:
            NotFound: there is no such corpus in force.
            CorpusDamaged: its index cannot be read.
        """
        words = word_view().words(text)
        spans: list[SpanOut] = []
        entries = self._publication.entries()
        allowed = [self._view(e) for e in entries if e.label is Label.ALLOWED]
        wanted = [e for e in entries if corpus in (None, e.id)]
        if not wanted and corpus is not None:
            raise NotFound("There is no such corpus in force.")
        for entry in wanted:
            spans += self._spans(entry, words, allowed)
        return AttributeOut(spans=spans, words=len(words.symbols))

    def _view(self, entry: CorpusEntry) -> View:
        view = self._library.view(entry.directory)
        if view is None:
            raise CorpusDamaged("The index of a corpus cannot be read.")
        return view

    def _spans(self, entry: CorpusEntry, words: Words, allowed: Sequence[View]) -> list[SpanOut]:
        view = self._view(entry)
        nats = background().surprisal(words.folded)
        # An allowed corpus is shown as it is: subtracted from itself nothing would be left.
        free = () if entry.label is Label.ALLOWED else allowed
        limits = Limits(entry.minimum, entry.threshold, entry.max_frequency)
        found = attribute_words(view, words.symbols, nats, limits, free)
        refused: list[tuple[int, int]] = []
        if entry.label is not Label.ALLOWED:
            watched = Watched(
                entry.id, "", view, entry.minimum, entry.threshold, entry.max_frequency
            )
            judge = Judge((watched,), tuple(allowed), background())
            refused = Trail(judge).windows(words.symbols, words.folded)
        return [self._span(entry, view, words, a, refused) for a in found]

    def _span(
        self,
        entry: CorpusEntry,
        view: View,
        words: Words,
        found: Attribution,
        refused: Sequence[tuple[int, int]],
    ) -> SpanOut:
        span = found.span
        return SpanOut(
            corpus=entry.id,
            start=int(words.starts[span.start]),
            end=int(words.ends[span.end - 1]),
            words=span.length,
            count=span.count,
            nats=round(found.best.nats, 3),
            raw=round(found.raw, 3),
            refused=any(span.start <= a and b <= span.end for a, b in refused),
            sources=[
                self._source(entry, view, occurrence, span.length) for occurrence in found.sources
            ],
        )

    def _source(self, entry: CorpusEntry, view: View, at: Occurrence, length: int) -> SourceOut:
        source = SourceOut(corpus=entry.id, document=at.document_id, first_word=at.first)
        try:
            document = view.document(at.document_id)
        except UnknownDocument:
            return source
        document = self._with_text(document)
        named = document.source or document.metadata.get(TARGET, "")
        passage = _passage(document.text, at.first, length)
        return source.model_copy(update={"source": named, **passage})

    def _with_text(self, document: Document) -> Document:
        """The document, whose text the index of targets does not keep."""
        if document.text or TARGET not in document.metadata:
            return document
        text = self._target_text(document.metadata[TARGET], int(document.metadata[ITEM]))
        return replace(document, text=text)


def _passage(text: str, first: int, length: int) -> dict[str, str | int]:
    """A document's text around some of its words, and where they are in it."""
    words = word_view().words(text)
    if first + length > len(words.starts):
        return {}
    start, end = int(words.starts[first]), int(words.ends[first + length - 1])
    begin = max(0, start - _CONTEXT_CHARS)
    return {
        "passage": text[begin : end + _CONTEXT_CHARS],
        "start": start - begin,
        "end": end - begin,
    }
