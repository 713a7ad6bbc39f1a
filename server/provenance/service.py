"""The corpora's parts, put together for the control process."""

from __future__ import annotations

import threading

from server.activation import SnapshotPublisher
from server.database import Database, Write
from server.errors import NotFound
from server.metrics import ControlMetrics
from server.provenance.attribution import Attributor
from server.provenance.audit import AuditLog
from server.provenance.library import Library
from server.provenance.overview import Overview
from server.provenance.publication import Publication
from server.provenance.registry import Places
from server.provenance.routes import Corpora
from server.provenance.store import CorpusStore
from server.provenance.worker import CorpusWorker
from server.settings import Settings
from server.store import Store


def assemble_corpora(
    settings: Settings,
    database: Database,
    store: Store,
    metrics: ControlMetrics,
    write: Write | None = None,
) -> Corpora:
    """Everything about corpora; its worker is not started yet.

    `write` begins the worker's transactions that may write, by default the database's own.
    """
    places = Places(settings.corpora)
    places.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    stopped = threading.Event()
    own, library = CorpusStore(database, write), Library(places)
    publication = Publication(
        places,
        own,
        library,
        SnapshotPublisher(places.root, places.registries),
        acknowledge_timeout_seconds=settings.acknowledge_timeout_seconds,
        stopped=stopped,
    )
    return Corpora(
        places=places,
        store=CorpusStore(database),
        library=library,
        overview=Overview(own, library, publication),
        worker=CorpusWorker(places, own, library, publication, metrics=metrics, stopped=stopped),
        attributor=Attributor(library, publication, lambda t, i: _target_text(store, t, i)),
        audit=AuditLog(places.audit),
        max_upload_bytes=settings.max_upload_bytes,
    )


def _target_text(store: Store, target_id: str, item: int) -> str:
    """The text of a target's document as it is registered now; "" where it is gone."""
    try:
        documents = store.target(target_id)[1].get("documents", [])
    except NotFound:
        return ""
    return str(documents[item]["text"]) if item < len(documents) else ""
