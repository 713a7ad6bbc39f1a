"""The control process: admin API, store and job worker in one process, never in the request path.

It may die at any moment and be started again; gateways and workers go on with the policy they have.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path

import uvicorn

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
from server.control_parts import ControlParts, assemble_control
from server.database import Database, is_file
from server.errors import ControlRunning, StartFault, StoreAway
from server.log import configure_logging, fault_fields, get_logger
from server.nodes.link import warn_of_clear_text
from server.policy import Compiler, Publisher
from server.restore import refuse_half_restored
from server.sealing import vault_of
from server.settings import Settings
from server.state_dir import locked, own_directory
from server.store import Store
from server.training.store import TrainingStore

# Exit status of a process that was up and is best started again (EX_TEMPFAIL of sysexits.h); any
# other but 0 says that it cannot start.
START_AGAIN = 75
# How long that of a server that was killed may take to let go of state directory and address.
_PREDECESSOR_SECONDS = 30.0

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
    parts = assemble_control(
        settings,
        database,
        store,
        assistants,
        build_compiler,
        model,
        end=lambda: end(server),
        is_ending=lambda: server.should_exit,
    )
    app = create_admin_app(
        parts.control,
        version=version("lethegate"),
        max_body_bytes=settings.max_body_bytes,
        console=_asked_by_console(settings),
    )
    server = uvicorn_server(app)
    announce(settings, listener)
    parts.control.keys.publisher.start()
    leader = threading.Thread(target=_lead, args=(parts, server), daemon=True)
    leader.start()
    if with_parent:
        threading.Thread(target=watch_parent, args=(server,), daemon=True).start()
    run_until_signal(server, listener)
    return _stop(parts.control, leader)


def _stop(control: Control, leader: threading.Thread) -> int:
    """End everything, the leader's thread too; gives the process's exit status.

    Raises:
        StartFault: what the worker could not begin with.
    """
    lease, worker = control.lease, control.worker
    control.keys.publisher.stop()
    control.audit.stop()
    lost = lease.epoch > 0 and not lease.is_held
    lease.stop_waiting()
    leader.join()
    # It may be waiting for the corpora, whose end must find it told to stop.
    worker.stop(timeout_seconds=0)
    control.trainings.worker.stop()
    control.nodes.statistics.stop()
    if control.corpora.done():
        control.corpora.result().worker.stop()
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


def _lead(parts: ControlParts, server: uvicorn.Server) -> None:
    """Take the lead when it is free, and start what only the leader does.

    In a thread: it may take long to come, and the corpora's compiled code a second to load.
    """
    control = parts.control
    try:
        if not control.lease.acquire():
            return
        control.publisher.claim(control.lease.epoch)
        control.nodes.fleet.begin(control.lease.epoch)
    except Exception as error:
        log.error("lead_not_taken", **fault_fields(error))
        end(server)
        return
    control.assistants.shelf.discard_drafts()
    control.worker.start()
    control.trainings.worker.start()
    control.nodes.statistics.start()
    try:
        control.corpora.set_result(parts.open_corpora())
    except Exception as error:
        log.error("corpora_cannot_be_opened", **fault_fields(error))
        control.corpora.set_exception(
            StartFault(f"cannot open the corpora: {type(error).__name__}")
        )
        end(server)


@contextmanager
def _only_one(state_dir: Path, patience_seconds: float = 0.0) -> Iterator[None]:
    """Hold the state directory's lock."""
    with locked(state_dir / "control.lock", patience_seconds) as holder:
        if holder is not None:
            raise ControlRunning(f"another control process (pid {holder or '?'}) owns {state_dir}")
        yield
