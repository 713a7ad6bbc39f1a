"""Indexes that were built apart from the server, on their way into a corpus.

Whatever is wrong is a fault of that index, not of the corpus, which stays as it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from guard.background import word_view
from server.errors import CorpusNotAdopted
from server.provenance.store import DocumentRecord
from tracing.errors import TracingError
from tracing.index import Index, View
from tracing.transfer import take_over


def inspect(source: Path) -> int:
    """Read an index through before it is taken over; gives the characters of its texts.

    Raises:
        CorpusNotAdopted: it is missing, damaged, of another kind, or keeps no texts: passages are
            shown from them, and a document that is added again is known by its text.
    """
    with _as_fault():
        view = Index(source, word_view(), read_only=True).view
        lengths = [len(view.document(number).text) for number in view.live_ids()]
    if lengths and not any(lengths):
        raise CorpusNotAdopted("the index keeps no texts")
    return sum(lengths)


def adopt(index: Index, source: Path, progress: Callable[[int, int], None]) -> None:
    """Copy the index in `source` into a corpus's; see `tracing.transfer.take_over`.

    Raises:
        CorpusNotAdopted: it cannot be read, serves longer matches only, or changed meanwhile.
    """
    with _as_fault():
        take_over(index, source, progress)


def adopted(view: View, now: float) -> Iterator[DocumentRecord]:
    """What the store notes of an index's live documents, in order of their numbers."""
    for number in view.live_ids():
        document = view.document(number)
        digest = hashlib.sha256(document.text.encode()).hexdigest()
        yield DocumentRecord(number, document.source, digest, len(document.text), now)


@contextmanager
def _as_fault() -> Iterator[None]:
    try:
        yield
    except TracingError as error:
        raise CorpusNotAdopted(f"the index cannot be taken over: {error}") from None
    except OSError:
        raise CorpusNotAdopted("the index cannot be taken over: it cannot be read") from None
