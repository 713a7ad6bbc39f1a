"""A corpus as the admin API shows it: what was asked for, and what its index holds."""

from __future__ import annotations

from collections.abc import Sequence

from guard.errors import CorporaUnusable
from server.provenance.library import Library
from server.provenance.publication import Publication
from server.provenance.schemas import CorpusOut
from server.provenance.store import CorpusRecord, CorpusStore
from server.provenance.veto import CorpusVeto
from server.records import utc
from tracing.index import View


class Overview:
    """Puts store, indexes and what is published together."""

    def __init__(
        self, store: CorpusStore, library: Library, publication: Publication, veto: CorpusVeto
    ) -> None:
        self._store, self._library, self._publication = store, library, publication
        self._veto = veto

    def of(self, records: Sequence[CorpusRecord], *, described: bool) -> list[CorpusOut]:
        """Corpora for the admin API; `described` adds the operator's description."""
        counts = self._store.count_documents()
        generation = self._publication.generation()
        try:
            published = {entry.id: entry for entry in self._publication.entries()}
        except CorporaUnusable:
            published = {}
        vetoed = self._veto.in_force()
        found = []
        for record in records:
            view = self._library.view(record.directory)
            entry = published.get(record.id)
            asked = record.settings
            found.append(
                CorpusOut(
                    id=record.id,
                    description=asked.description if described else None,
                    label=asked.label,
                    targets=list(asked.targets),
                    scope=asked.scope,
                    enforcement=asked.enforcement,
                    minimum_match=asked.minimum_match,
                    max_frequency=asked.max_frequency,
                    false_positive_rate=asked.false_positive_rate,
                    veto=asked.veto,
                    minimum_match_tokens=asked.minimum_match_tokens,
                    vetoed=vetoed.get(record.id, {}).get("veto"),
                    status=record.status,
                    threshold=None if entry is None else round(entry.threshold, 4),
                    documents=counts.get(record.id, 0),
                    words=_words(view),
                    bytes=0 if view is None else sum(s.container.bytes for s in view.segments),
                    index_generation=0 if view is None else view.generation,
                    generation=generation if entry is not None else 0,
                    created_at=utc(record.created_at),
                    updated_at=utc(record.updated_at),
                )
            )
        return found


def _words(view: View | None) -> int:
    """Words of the live documents."""
    return 0 if view is None else sum(segment.live_words for segment in view.segments)
