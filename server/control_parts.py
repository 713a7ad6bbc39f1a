"""Everything that a control process has, put together; nothing of it runs yet."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

from prometheus_client import CollectorRegistry

from guard.follower import ActivePointer
from server.admin_parts import Control
from server.assistants import Assistants
from server.audit.opening import open_audit
from server.auth import load_keyring
from server.database import Database
from server.jobs import IDLE_SECONDS, JobWorker
from server.keys.publisher import KeyPublisher
from server.keys.routes import Keys
from server.keys.store import KeyStore
from server.lease import Lease
from server.log import get_logger
from server.metrics.control import ControlMetrics
from server.metrics.labels import Storage
from server.metrics.targets import TargetMetrics
from server.nodes.channels import Channel
from server.nodes.fleet import Fleet
from server.nodes.offer import Offer
from server.nodes.publisher import Elsewhere, WithNodes
from server.nodes.routes import Nodes
from server.nodes.store import NodeStore
from server.policy import Compiler, Publisher
from server.provenance.routes import Corpora
from server.retention import GRACE_SECONDS, prune_snapshots
from server.settings import Settings
from server.statistics.keeper import StatisticsKeeper
from server.statistics.store import StatisticsStore
from server.store import Store
from server.training.service import assemble_trainings
from server.worklist import Worklist

# Jobs queued by another process are found by looking.
_SHARED_IDLE_SECONDS = 1.0

log = get_logger("control")


@dataclass(frozen=True, slots=True)
class ControlParts:
    """What the admin API works on; and what opens the corpora, once this process leads."""

    control: Control
    open_corpora: Callable[[], Corpora]


def assemble_control(
    settings: Settings,
    database: Database,
    store: Store,
    assistants: Assistants,
    build_compiler: Callable[[], Compiler],
    model: str | None,
    *,
    end: Callable[[], None],
    is_ending: Callable[[], bool],
) -> ControlParts:
    """The parts of a control process on an open store.

    `end` is called, in any thread, when the lead is lost or the worker cannot go on; `is_ending`
    tells whether the process is about to end.

    Raises:
        StartFault: the keys or the audit's file cannot be used.
    """
    registry = CollectorRegistry()
    lease = Lease(database, uuid.uuid4().hex, above=lambda: _highest_epoch(settings), on_lost=end)
    nodes = _nodes(settings, database, lease, is_ending)
    publisher = WithNodes(assistants.publisher, partial(nodes.fleet.followers, Channel.POLICY))
    metrics = ControlMetrics(registry, publisher.followers, nodes.fleet.facts)
    database.on_fault = partial(metrics.record_storage_failure, Storage.STORE)
    idle_seconds = IDLE_SECONDS if database.is_file else _SHARED_IDLE_SECONDS
    corpora: Future[Corpora] = Future()
    worklist = Worklist(database, lease.write, keep_versions=settings.keep_versions)
    worker = JobWorker(
        store,
        worklist,
        publisher,
        build_compiler,
        metrics=metrics,
        acknowledge_timeout_seconds=settings.acknowledge_timeout_seconds,
        idle_seconds=idle_seconds,
        housekeeping=lambda: _prune(settings, worklist, publisher),
        sync_documents=lambda targets: corpora.result().worker.sync_targets(targets),
        vetoed_corpora=lambda: corpora.result().worker.vetoed(),
        on_fault=end,
    )
    key_store = KeyStore(database)
    gateways = partial(nodes.fleet.followers, Channel.KEYS)
    keys = Keys(key_store, KeyPublisher(key_store, settings.keys, gateways))
    keyring = load_keyring(settings, keys.publisher.current)
    trainings = assemble_trainings(
        settings,
        database,
        assistants,
        metrics,
        model,
        write=lease.write,
        idle_seconds=idle_seconds,
    )
    control = Control(
        store,
        worker,
        publisher,
        keyring,
        registry,
        corpora,
        assistants,
        keys,
        lease,
        open_audit(settings, metrics.audit),
        trainings,
        nodes,
    )
    TargetMetrics(control.target_registry, nodes.statistics.sums, settings.target_series)
    elsewhere = partial(nodes.fleet.followers, Channel.CORPORA)
    return ControlParts(
        control,
        lambda: _open_corpora(settings, database, store, metrics, worker.notify, lease, elsewhere),
    )


def _nodes(
    settings: Settings, database: Database, lease: Lease, is_ending: Callable[[], bool]
) -> Nodes:
    offer = Offer(settings)
    fleet = Fleet(NodeStore(database, lease.write), offer.active)
    statistics = StatisticsKeeper(
        StatisticsStore(database, lease.write),
        settings.statistics,
        tells_all=settings.target_series > 0,
        nodes=fleet.instances,
    )
    return Nodes(fleet, offer, statistics, is_ending)


def _open_corpora(
    settings: Settings,
    database: Database,
    store: Store,
    metrics: ControlMetrics,
    notify: Callable[[], None],
    lease: Lease,
    elsewhere: Elsewhere,
) -> Corpora:
    from server.provenance.service import assemble_corpora

    corpora = assemble_corpora(
        settings,
        database,
        store,
        metrics,
        notify,
        lease.write,
        epoch=lease.epoch,
        elsewhere=elsewhere,
    )
    corpora.worker.start()
    return corpora


def _highest_epoch(settings: Settings) -> int:
    """The latest lead under which something was put in force."""
    pointers = (ActivePointer(place).read() for place in (settings.state_dir, settings.corpora))
    return max((active.epoch for active in pointers if active is not None), default=0)


def _prune(settings: Settings, worklist: Worklist, publisher: Publisher) -> None:
    """Delete superseded snapshots, never one that is or was just followed."""
    kept = worklist.digests_since(settings.keep_snapshots + 1, time.time() - GRACE_SECONDS)
    active = publisher.read()
    kept |= {active.digest} if active is not None else set()
    kept |= {follower.digest for follower in publisher.followers() if follower.digest}
    deleted = prune_snapshots(settings.snapshots, kept)
    if deleted:
        log.info("snapshots_pruned", count=deleted)
