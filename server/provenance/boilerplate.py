"""The allow-list that is there from the start: licences, disclaimers, famous first sentences.

Registered documents often quote these, and so do answers. Without them on the list, a corpus with a
licence in it would refuse every licence, or, calibrated on texts that quote one, next to nothing.
"""

from __future__ import annotations

from detectors.benign import boilerplate
from detectors.targets import Enforcement, Scope
from server.provenance.library import Library
from server.provenance.registry import CorpusEntry
from server.provenance.schemas import DEFAULT_MATCH, Label
from tracing.document import Document
from tracing.index import View

# No corpus of an operator can have an id that begins like this.
ID = "@boilerplate"


def boilerplate_view(library: Library) -> View:
    """The index of the shipped boilerplate, made or brought up to date where needed."""
    index = library.index(ID, DEFAULT_MATCH)
    present = {index.view.document(number).text: number for number in index.view.live_ids()}
    wanted = boilerplate()
    if fresh := [text for text in wanted if text not in present]:
        index.add(Document(text) for text in fresh)
    if gone := [number for text, number in present.items() if text not in wanted]:
        index.withdraw(gone)
    return index.view


def boilerplate_entry(view: View) -> CorpusEntry:
    """How it is published."""
    return CorpusEntry(
        id=ID,
        directory=ID,
        index_generation=view.generation,
        label=Label.ALLOWED,
        scope=Scope.MATCHED,
        enforcement=Enforcement.ENFORCE,
        targets=(),
        minimum=DEFAULT_MATCH,
        max_frequency=None,
        threshold=0.0,
    )
