"""The control process: admin API, store and job worker in one process, never in the request path.

It may die at any moment and be started again; gateways and workers go on with the policy they have.
"""

from __future__ import annotations

import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib.metadata import version
from pathlib import Path

import uvicorn
from prometheus_client import CollectorRegistry

from guard.follower import ActivePointer
from guard.uld.card import Card
from guard.uld.shelf import Shelf
from server.admin import create_admin_app
from server.admin_parts import Control
from server.admin_port import (
    announce,
    end,
    listening,
    run_until_signal,
    uvicorn_server,
    watch_parent,
)
from server.assistants import Assistants, fits_model
from server.audit.opening import open_audit
from server.auth import load_keyring
from server.database import Database, is_file
from server.errors import ControlRunning, StartFault, StoreAway
from server.jobs import IDLE_SECONDS, JobWorker
from server.keys.publisher import KeyPublisher
from server.keys.routes import Keys
from server.keys.store import KeyStore
from server.lease import Lease
from server.log import configure_logging, fault_fields, get_logger
from server.metrics.control import ControlMetrics
from server.metrics.labels import Storage
from server.metrics.targets import TargetMetrics
from server.nodes.channels import Channel
from server.nodes.fleet import Fleet
from server.nodes.link import warn_of_clear_text
from server.nodes.offer import Offer
from server.nodes.publisher import Elsewhere, WithNodes
from server.nodes.routes import Nodes
from server.nodes.store import NodeStore
from server.policy import Compiler, Publisher
from server.provenance.routes import Corpora
from server.restore import refuse_half_restored
from server.retention import GRACE_SECONDS, prune_snapshots
from server.sealing import vault_of
from server.settings import Settings
from server.state_dir import locked, own_directory
from server.statistics.keeper import StatisticsKeeper
from server.statistics.store import StatisticsStore
from server.store import Store
from server.training.service import Trainings, assemble_trainings
from server.training.store import TrainingStore
from server.worklist import Worklist

# Exit status of a process that was up and is best started again (EX_TEMPFAIL of sysexits.h); any
# other but 0 says that it cannot start.
START_AGAIN = 75
# How long that of a server that was killed may take to let go of state directory and address.
_PREDECESSOR_SECONDS = 30.0
# Jobs queued by another process are found by looking.
_SHARED_IDLE_SECONDS = 1.0

log = get_logger("control")


def run_control(
    settings: Settings,
    model: str,
    *,
    tokenizer: str | None = None,
    trust_remote_code: bool = False,
    with_parent: bool = False,
) -> int:
    """Run the control process for a served model; returns its exit status.

    `tokenizer` is given when it is not the model's own. `with_parent` ends the process when the
    one that started it is gone.

    Raises:
        StartFault: the state directory, store, keys or address cannot be used.
    """
    from server.activation import GuardCompiler, SnapshotPublisher

    def build_compiler() -> Compiler:
        return GuardCompiler(settings, tokenizer or model, trust_remote_code=trust_remote_code)

    own_directory(settings.state_dir)
    publisher = SnapshotPublisher(settings.state_dir, settings.snapshots)
    fits = fits_model(model, tokenizer or model, trust_remote_code=trust_remote_code)
    return serve_control(
        settings, publisher, build_compiler, fits, model=model, with_parent=with_parent
    )


def serve_control(
    settings: Settings,
    publisher: Publisher,
    build_compiler: Callable[[], Compiler],
    fits: Callable[[Card], None] = lambda card: None,
    *,
    model: str | None = None,
    with_parent: bool = False,
) -> int:
    """Run the control process with the given compiler and publisher; returns its exit status.

    `build_compiler` is called in the worker's thread, so the API answers while models load. `fits`
    refuses assistants of another model than `model`, for which they are trained.

    Raises:
        StartFault: the state directory, store, keys or address cannot be used.
    """
    configure_logging(settings.log_level, settings.log_format, capture=True)
    if settings.control_url is not None:
        raise StartFault("control_url: a node has no control process of its own")
    own_directory(settings.state_dir)
    # On a database server, several take turns: see `server.lease`.
    # The control process of a server that was killed takes a moment to notice.
    patience = _PREDECESSOR_SECONDS if with_parent else 0.0
    is_alone = is_file(settings.store_url)
    alone = _only_one(settings.state_dir, patience) if is_alone else nullcontext()
    with alone, listening(settings) as listener:
        refuse_half_restored(settings.state_dir)
        try:
            database = Database(settings.store_url, vault_of(settings))
        except StoreAway as error:
            log.error("store_away", **fault_fields(error))
            return START_AGAIN
        try:
            store = Store(database)
            shelf = Shelf(settings.assistants)
            training = TrainingStore(database)
            assistants = Assistants(shelf, settings, store, publisher, fits, training.open_ids)
            return _serve(
                settings, database, store, assistants, build_compiler, listener, model, with_parent
            )
        finally:
            database.close()


def _serve(
    settings: Settings,
    database: Database,
    store: Store,
    assistants: Assistants,
    build_compiler: Callable[[], Compiler],
    listener: socket.socket,
    model: str | None,
    with_parent: bool,
) -> int:
    registry = CollectorRegistry()
    lease = Lease(
        database,
        uuid.uuid4().hex,
        above=lambda: _highest_epoch(settings),
        on_lost=lambda: end(server),
    )
    worklist = Worklist(database, lease.write, keep_versions=settings.keep_versions)
    offer = Offer(settings)
    fleet = Fleet(NodeStore(database, lease.write), offer.active)
    statistics = StatisticsKeeper(
        StatisticsStore(database, lease.write),
        settings.statistics,
        tells_all=settings.target_series > 0,
        nodes=fleet.instances,
    )
    nodes = Nodes(fleet, offer, statistics, lambda: server.should_exit)
    publisher = WithNodes(assistants.publisher, partial(nodes.fleet.followers, Channel.POLICY))
    metrics = ControlMetrics(registry, publisher.followers, nodes.fleet.facts)
    database.on_fault = partial(metrics.record_storage_failure, Storage.STORE)
    corpora: Future[Corpora] = Future()
    worker = JobWorker(
        store,
        worklist,
        publisher,
        build_compiler,
        metrics=metrics,
        acknowledge_timeout_seconds=settings.acknowledge_timeout_seconds,
        idle_seconds=IDLE_SECONDS if database.is_file else _SHARED_IDLE_SECONDS,
        housekeeping=lambda: _prune(settings, worklist, publisher),
        sync_documents=lambda targets: corpora.result().worker.sync_targets(targets),
        vetoed_corpora=lambda: corpora.result().worker.vetoed(),
        on_fault=lambda: end(server),
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
        idle_seconds=IDLE_SECONDS if database.is_file else _SHARED_IDLE_SECONDS,
    )
    audit = open_audit(settings, metrics.audit)
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
        audit,
        trainings,
        nodes,
    )
    TargetMetrics(control.target_registry, statistics.sums, settings.target_series)
    app = create_admin_app(
        control,
        version=version("lethegate"),
        max_body_bytes=settings.max_body_bytes,
        console=_asked_by_console(settings),
    )
    server = uvicorn_server(app)
    announce(settings, listener)
    keys.publisher.start()

    def open_corpora() -> Corpora:
        elsewhere = partial(nodes.fleet.followers, Channel.CORPORA)
        return _open_corpora(settings, database, store, metrics, worker.notify, lease, elsewhere)

    leader = threading.Thread(
        target=_lead,
        args=(
            *(lease, publisher, nodes.fleet, assistants.shelf),
            *(worker, trainings, statistics, corpora, open_corpora, server),
        ),
        daemon=True,
    )
    leader.start()
    if with_parent:
        threading.Thread(target=watch_parent, args=(server,), daemon=True).start()
    run_until_signal(server, listener)
    keys.publisher.stop()
    audit.stop()
    lost = lease.epoch > 0 and not lease.is_held
    lease.stop_waiting()
    leader.join()
    # It may be waiting for the corpora, whose end must find it told to stop.
    worker.stop(timeout_seconds=0)
    trainings.worker.stop()
    statistics.stop()
    if corpora.done():
        corpora.result().worker.stop()
    worker.stop()
    lease.release()
    if isinstance(worker.fault, StartFault):
        raise worker.fault
    return START_AGAIN if lost or worker.fault is not None else 0


def _asked_by_console(settings: Settings) -> str | None:
    """The guarded endpoint that the console's playground asks; None: there is no console."""
    if not settings.console:
        return None
    if settings.console_endpoint_url is None:
        return settings.endpoint_url
    for host in warn_of_clear_text([settings.console_endpoint_url]):
        log.warning("client_key_and_prompts_of_the_playground_travel_without_tls", host=host)
    return settings.console_endpoint_url


def _lead(
    lease: Lease,
    publisher: Publisher,
    fleet: Fleet,
    shelf: Shelf,
    worker: JobWorker,
    trainings: Trainings,
    statistics: StatisticsKeeper,
    corpora: Future[Corpora],
    open_corpora: Callable[[], Corpora],
    server: uvicorn.Server,
) -> None:
    """Take the lead when it is free, and start what only the leader does.

    In a thread: it may take long to come, and the corpora's compiled code a second to load.
    """
    try:
        if not lease.acquire():
            return
        publisher.claim(lease.epoch)
        fleet.begin(lease.epoch)
    except Exception as error:
        log.error("lead_not_taken", **fault_fields(error))
        end(server)
        return
    shelf.discard_drafts()
    worker.start()
    trainings.worker.start()
    statistics.start()
    try:
        corpora.set_result(open_corpora())
    except Exception as error:
        log.error("corpora_cannot_be_opened", **fault_fields(error))
        corpora.set_exception(StartFault(f"cannot open the corpora: {type(error).__name__}"))
        end(server)


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


@contextmanager
def _only_one(state_dir: Path, patience_seconds: float = 0.0) -> Iterator[None]:
    """Hold the state directory's lock."""
    with locked(state_dir / "control.lock", patience_seconds) as holder:
        if holder is not None:
            raise ControlRunning(f"another control process (pid {holder or '?'}) owns {state_dir}")
        yield


def _prune(settings: Settings, worklist: Worklist, publisher: Publisher) -> None:
    """Delete superseded snapshots, never one that is or was just followed."""
    kept = worklist.digests_since(settings.keep_snapshots + 1, time.time() - GRACE_SECONDS)
    active = publisher.read()
    kept |= {active.digest} if active is not None else set()
    kept |= {follower.digest for follower in publisher.followers() if follower.digest}
    deleted = prune_snapshots(settings.snapshots, kept)
    if deleted:
        log.info("snapshots_pruned", count=deleted)
