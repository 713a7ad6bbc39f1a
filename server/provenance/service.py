"""The corpora's parts, put together for the control process."""

from __future__ import annotations

import threading
from collections.abc import Callable

from server.activation import SnapshotPublisher
from server.database import Database, Write
from server.errors import NotFound
from server.metrics.control import ControlMetrics
from server.nodes.publisher import Elsewhere, WithNodes
from server.provenance.attribution import Attributor
from server.provenance.audit import AuditLog
from server.provenance.library import Library
from server.provenance.overview import Overview
from server.provenance.publication import Publication
from server.provenance.registry import Places
from server.provenance.routes import Corpora
from server.provenance.store import CorpusStore
from server.provenance.veto import CorpusVeto
from server.provenance.worker import CorpusWorker
from server.settings import Settings
from server.store import Store
from server.worklist import Worklist


def assemble_corpora(
    settings: Settings,
    database: Database,
    store: Store,
    metrics: ControlMetrics,
    notify: Callable[[], None],
    write: Write | None = None,
    *,
    epoch: int = 0,
    elsewhere: Elsewhere = tuple,
) -> Corpora:
    """Everything about corpora; its worker is not started yet.

    `notify` is called when a job for the policy's worker is queued; `write` begins the worker's
    transactions that may write, by default the database's own. `epoch` numbers the lead;
    `elsewhere` gives the gateways of other machines.

    Raises:
        LeaseLost: another process leads by now.
    """
    places = Places(settings.corpora)
    places.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    stopped = threading.Event()
    own, library = CorpusStore(database, write), Library(places)
    publisher = WithNodes(SnapshotPublisher(places.root, places.registries), elsewhere)
    publisher.claim(epoch)
    publication = Publication(
        places,
        own,
        library,
        publisher,
        acknowledge_timeout_seconds=settings.acknowledge_timeout_seconds,
        stopped=stopped,
    )
    veto = CorpusVeto(
        store,
        Worklist(database, write),
        own,
        library,
        SnapshotPublisher(settings.state_dir, settings.snapshots),
        settings.snapshots,
        notify=notify,
        limit=settings.veto_max_characters,
        stopped=stopped,
    )
    return Corpora(
        places=places,
        store=CorpusStore(database),
        library=library,
        overview=Overview(own, library, publication, veto),
        worker=CorpusWorker(
            places,
            own,
            library,
            publication,
            veto,
            metrics=metrics,
            state_dir=settings.state_dir,
            index_dir=settings.index_dir,
            stopped=stopped,
        ),
        veto=veto,
        attributor=Attributor(library, publication, lambda t, i: _target_text(store, t, i)),
        audit=AuditLog(places.audit),
        max_upload_bytes=settings.max_upload_bytes,
        index_dir=settings.index_dir,
    )


def _target_text(store: Store, target_id: str, item: int) -> str:
    """The text of a target's document as it is registered now; "" where it is gone."""
    try:
        documents = store.target(target_id)[1].get("documents", [])
    except NotFound:
        return ""
    return str(documents[item]["text"]) if item < len(documents) else ""
