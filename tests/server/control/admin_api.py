"""An admin API on loopback, with everything that a control process gives it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial

from prometheus_client import CollectorRegistry

from guard.errors import AssistantMismatch
from guard.uld.card import Card
from guard.uld.shelf import Shelf
from server.activation import SnapshotPublisher
from server.admin import create_admin_app
from server.admin_parts import Control
from server.assistants import Assistants
from server.audit.opening import open_audit
from server.auth import load_keyring
from server.database import Database
from server.jobs import JobWorker
from server.keys.publisher import KeyPublisher
from server.keys.routes import Keys
from server.keys.store import KeyStore
from server.lease import Lease
from server.metrics.control import ControlMetrics
from server.nodes.channels import Channel
from server.nodes.publisher import WithNodes
from server.nodes.routes import Nodes
from server.provenance.routes import Corpora
from server.provenance.service import assemble_corpora
from server.settings import Settings
from server.store import Store
from server.training.service import assemble_trainings
from server.training.store import TrainingStore
from tests.server.loopback import serve


def refuse_foreign(card: Card) -> None:
    """Stands for the check against the served model."""
    if card.base == "foreign":
        raise AssistantMismatch("the assistant was trained for another base model")


@contextmanager
def admin_api(
    settings: Settings,
    database: Database,
    store: Store,
    nodes: Nodes,
    publisher: SnapshotPublisher,
    make_worker: Callable[..., JobWorker],
    served_model: str | None,
    endpoint_url: str | None,
) -> Iterator[str]:
    """The URL of an admin API whose workers run meanwhile."""
    registry = CollectorRegistry()
    metrics = ControlMetrics(registry, lambda: everywhere.followers(), nodes.fleet.facts)
    elsewhere = {channel: partial(nodes.fleet.followers, channel) for channel in Channel}
    corpora = assemble_corpora(
        settings,
        database,
        store,
        metrics,
        lambda: worker.notify(),
        elsewhere=elsewhere[Channel.CORPORA],
    )
    everywhere = WithNodes(publisher, elsewhere[Channel.POLICY])
    worker = make_worker(
        publisher=everywhere,
        metrics=metrics,
        sync_documents=corpora.worker.sync_targets,
        vetoed_corpora=corpora.worker.vetoed,
    )
    corpora.worker.start()
    in_training = TrainingStore(database).open_ids
    assistants = Assistants(
        Shelf(settings.assistants), settings, store, publisher, refuse_foreign, in_training
    )
    trainings = assemble_trainings(
        settings, database, assistants, metrics, served_model, checkpoint_seconds=0
    )
    trainings.worker.start()
    key_store = KeyStore(database)
    keys = Keys(key_store, KeyPublisher(key_store, settings.keys, elsewhere[Channel.KEYS]))
    keys.publisher.start()
    keyring = load_keyring(settings, keys.publisher.current)
    opened: Future[Corpora] = Future()
    opened.set_result(corpora)
    lease = Lease(database, "tests")
    audit = open_audit(settings, metrics.audit)
    control = Control(
        store,
        worker,
        everywhere,
        keyring,
        registry,
        opened,
        assistants,
        keys,
        lease,
        audit,
        trainings,
        nodes,
    )
    app = create_admin_app(
        control, version="1", max_body_bytes=settings.max_body_bytes, console=endpoint_url
    )
    url, stop = serve(app, log_config=None, lifespan="off")
    yield url
    stop()
    keys.publisher.stop()
    audit.stop()
    worker.stop(timeout_seconds=0)
    trainings.worker.stop()
    corpora.worker.stop()
