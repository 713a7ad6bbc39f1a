"""Fixtures of the control side: real SQLite files, a real job worker, a real HTTP server."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
import structlog
import uvicorn
from prometheus_client import CollectorRegistry
from sqlalchemy import make_url

from guard.errors import AssistantMismatch
from guard.follower import Active, Follower
from guard.uld.card import Card
from guard.uld.shelf import Shelf
from server.activation import SnapshotPublisher
from server.admin import create_admin_app
from server.admin_parts import Control
from server.assistants import Assistants
from server.audit.opening import open_audit
from server.auth import load_keyring
from server.bench.servers import free_ports
from server.database import Database
from server.jobs import JobWorker
from server.keys.publisher import KeyPublisher
from server.keys.routes import Keys
from server.keys.store import KeyStore
from server.lease import Lease
from server.metrics.control import ControlMetrics
from server.nodes.channels import Channel
from server.nodes.fleet import Fleet
from server.nodes.offer import Offer
from server.nodes.publisher import WithNodes
from server.nodes.routes import Nodes
from server.nodes.store import NodeStore
from server.provenance.routes import Corpora
from server.provenance.service import assemble_corpora
from server.settings import Settings
from server.state_dir import own_directory
from server.statistics.keeper import StatisticsKeeper
from server.statistics.store import StatisticsStore
from server.store import Store
from server.training.service import assemble_trainings
from server.training.store import TrainingStore
from server.worklist import Worklist

ADMIN = {"authorization": "Bearer admin-key"}
# Everything waits for conditions so long: the machine may stand still for seconds.
_PATIENCE_SECONDS = 60


@pytest.fixture(autouse=True)
def _logging_restored() -> Iterator[None]:
    """Undo what a command run in this process did to logging: its streams are closed by then.

    Until one does, threads of the test log to standard error, as a process would.
    """
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def fake_control() -> ModuleType:
    """The module of the small control process."""
    path = Path(__file__).with_name("fake_control.py")
    spec = importlib.util.spec_from_file_location("fake_control", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with a state directory of their own and known keys."""
    state_dir = tmp_path / "state"
    own_directory(state_dir)
    return Settings.model_validate(
        {
            "state_dir": state_dir,
            "admin_key": "admin-key",
            "auditor_keys": ["auditor-key"],
            "api_keys": ["client-key"],
            "node_keys": ["node-key"],
            "acknowledge_timeout_seconds": 10,
            "veto_max_characters": 100_000,
        }
    )


@pytest.fixture
def empty_url(settings: Settings, request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Gives the URL of an empty database of a kind, `sqlite` or `postgresql`."""

    def url(kind: str) -> str:
        if kind == "sqlite":
            return settings.store_url
        made: str = request.getfixturevalue("postgres").new_database()
        return made

    return url


@pytest.fixture
def store_url(request: pytest.FixtureRequest, empty_url: Callable[[str], str]) -> str:
    """The URL of the store's database: SQLite's, unless `database` is parametrised otherwise."""
    call = getattr(request.node, "callspec", None)
    return empty_url("sqlite" if call is None else call.params.get("database", "sqlite"))


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of an empty store: copying it is a hundred times quicker than migrating to it."""
    file = tmp_path_factory.mktemp("empty") / "store.db"
    Database(f"sqlite:///{file}").close()
    return file


@pytest.fixture
def database(store_url: str, empty_store: Path) -> Iterator[Database]:
    """An empty store's database; a parameter names another kind than SQLite."""
    url = make_url(store_url)
    if url.get_backend_name() == "sqlite":
        assert url.database is not None
        shutil.copy(empty_store, url.database)
    opened = Database(store_url)
    yield opened
    opened.close()


@pytest.fixture
def store(database: Database) -> Store:
    """An empty store."""
    return Store(database)


@pytest.fixture
def worklist(database: Database) -> Worklist:
    """The worker's side of the same store."""
    return Worklist(database)


@pytest.fixture
def publisher(settings: Settings) -> SnapshotPublisher:
    """The real pointer and followers' files."""
    return SnapshotPublisher(settings.state_dir, settings.snapshots)


@pytest.fixture
def compiler(fake_control: ModuleType, settings: Settings) -> Any:
    """A small true compiler."""
    return fake_control.QuickCompiler(settings.snapshots)


@pytest.fixture
def make_worker(
    store: Store, worklist: Worklist, publisher: SnapshotPublisher, compiler: Any
) -> Iterator[Callable[..., JobWorker]]:
    """Start job workers on the store; all are stopped at the end."""
    started: list[JobWorker] = []

    def make(**options: Any) -> JobWorker:
        build = options.pop("build_compiler", lambda: compiler)
        metrics = options.pop("metrics", None) or ControlMetrics(CollectorRegistry())
        followed = options.pop("publisher", publisher)
        worker = JobWorker(store, worklist, followed, build, metrics=metrics, **options)
        started.append(worker)
        worker.start()
        return worker

    yield make
    for worker in started:
        worker.stop()


@pytest.fixture
def follow(settings: Settings) -> Iterator[Callable[..., Follower]]:
    """Start real followers; `load` may raise to reject a policy."""
    started: list[Follower] = []

    def start(load: Callable[[Active], None] = lambda active: None) -> Follower:
        follower = Follower(settings.state_dir, "gateway", load)
        follower.start()
        started.append(follower)
        return follower

    yield start
    for follower in started:
        follower.stop()


@pytest.fixture
def settle() -> Callable[[Callable[[], bool]], None]:
    """Wait until a condition holds, or fail after a minute."""

    def wait(condition: Callable[[], bool]) -> None:
        end = time.monotonic() + _PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < end, "the condition never held"
            time.sleep(0.01)

    return wait


@pytest.fixture(scope="session")
def files_in() -> Callable[[Path], dict[Path, tuple[int, bytes]]]:
    """Mode and content of all files below a folder, as they were at one moment.

    Others may write there meanwhile: it is looked at until no file came or went.
    """

    def names(folder: Path) -> set[Path]:
        return {Path(at) / name for at, _, files in os.walk(folder) for name in files}

    def look(folder: Path) -> dict[Path, tuple[int, bytes]]:
        end = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < end:
            with suppress(FileNotFoundError):
                found = {p: (p.stat().st_mode, p.read_bytes()) for p in sorted(names(folder))}
                if set(found) == names(folder):
                    return found
        pytest.fail("files come and go all the time")

    return look


def refuse_foreign(card: Card) -> None:
    """Stands for the check against the served model."""
    if card.base == "foreign":
        raise AssistantMismatch("the assistant was trained for another base model")


@pytest.fixture
def served_model() -> str | None:
    """The model that assistants are trained for; none unless a test has one."""
    return None


@pytest.fixture
def endpoint_url() -> str | None:
    """The guarded endpoint of a console; none unless a test has one."""
    return None


@pytest.fixture
def nodes(settings: Settings, database: Database) -> Nodes:
    """The nodes of a control process that leads."""
    offer = Offer(settings)
    fleet = Fleet(NodeStore(database), offer.active)
    fleet.begin(1)
    return Nodes(fleet, offer, StatisticsKeeper(StatisticsStore(database), settings.statistics))


@pytest.fixture
def admin(
    settings: Settings,
    database: Database,
    store: Store,
    nodes: Nodes,
    publisher: SnapshotPublisher,
    make_worker: Callable[..., JobWorker],
    served_model: str | None,
    endpoint_url: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[httpx.Client]:
    """An admin's client of the admin API, on a real loopback server."""
    monkeypatch.setattr("server.keys.routes.IN_FORCE_SECONDS", _PATIENCE_SECONDS)
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
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with httpx.Client(
        base_url=url, headers=ADMIN, timeout=_PATIENCE_SECONDS, trust_env=False
    ) as client:
        yield client
    server.should_exit = True
    thread.join(10)
    keys.publisher.stop()
    audit.stop()
    worker.stop(timeout_seconds=0)
    trainings.worker.stop()
    corpora.worker.stop()
    listener.close()


@pytest.fixture
def done(
    admin: httpx.Client, settle: Callable[[Callable[[], bool]], None]
) -> Callable[[httpx.Response], dict[str, Any]]:
    """Wait for the job of an accepted change."""

    def wait(response: httpx.Response) -> dict[str, Any]:
        assert response.status_code == 202, response.text
        path = f"/admin/v1/jobs/{response.json()['job']['id']}"
        settle(lambda: admin.get(path).json()["state"] in ("done", "failed"))
        job: dict[str, Any] = admin.get(path).json()
        return job

    return wait


class Nursery:
    """A process that starts control processes by forking: see `nursery.py`."""

    def __init__(self, script: Path) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("LETHEGATE_")}
        command = [sys.executable, str(Path(__file__).with_name("nursery.py")), str(script)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen(command, env=environment, **pipes)
        self._asking = threading.Lock()

    def ask(self, **request: Any) -> Any:
        """The answer to a request."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._asking:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End it."""
        self._process.communicate()


class Forked:
    """A process that a nursery started, with the methods of `subprocess.Popen`."""

    def __init__(self, nursery: Nursery, arguments: list[str], log: Path) -> None:
        self._nursery = nursery
        self.pid: int = nursery.ask(start=arguments, log=str(log))
        self._status: int | None = None

    def send_signal(self, number: int) -> None:
        """Unless it has ended, and that was seen."""
        if self._status is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9."""
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float = _PATIENCE_SECONDS) -> int:
        """Its exit status, negative if a signal ended it."""
        end = time.monotonic() + timeout
        while self._status is None:
            self._status = self._nursery.ask(poll=self.pid)
            assert time.monotonic() < end, "the process does not end"
            time.sleep(0.005)
        return self._status


@pytest.fixture(scope="session")
def nursery_of() -> Iterator[Callable[[Path], Nursery]]:
    """Gives the nursery of a script, which is started with the first use."""
    started: dict[Path, Nursery] = {}

    def of(script: Path) -> Nursery:
        if script not in started:
            started[script] = Nursery(script)
        return started[script]

    yield of
    for nursery in started.values():
        nursery.close()


class ControlProcess:
    """A real control process that can be killed and started again."""

    def __init__(
        self,
        nursery_of: Callable[[Path], Nursery],
        state_dir: Path,
        url: str | None = None,
        model: Path | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self._nursery_of = nursery_of
        self.state_dir = state_dir
        self.script = Path(__file__).with_name("fake_control.py")
        self.url, self.model, self.host = url, model, host
        (self.port,) = free_ports(1, host)
        self.process: Forked | None = None
        # A moment of `fake_control.DEATHS` in which the next one kills itself.
        self.death = ""
        self.http = httpx.Client(
            base_url=f"http://{host}:{self.port}/admin/v1",
            headers={"authorization": "Bearer admin-key"},
            timeout=30,
            trust_env=False,
        )

    def start(self) -> Forked:
        """Start it without waiting."""
        arguments = [str(self.state_dir), str(self.port)]
        arguments += [self.url or "", str(self.model or ""), self.host]
        arguments += [self.death] if self.death else []
        log = self.state_dir.parent / "log"
        self.process = Forked(self._nursery_of(self.script), arguments, log)
        return self.process

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def until(self, condition: Callable[[], bool], seconds: float = _PATIENCE_SECONDS) -> None:
        """Wait for a condition that may need the API to come up first."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if condition():
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.02)
        pytest.fail("the condition never held")

    def ready(self) -> bool:
        """Whether a policy is in force."""
        return self.http.get(f"http://{self.host}:{self.port}/readyz").status_code == 200

    def close(self) -> None:
        """End everything."""
        self.kill()
        self.http.close()


@pytest.fixture
def make_control(
    tmp_path: Path, nursery_of: Callable[[Path], Nursery]
) -> Iterator[Callable[..., ControlProcess]]:
    """Makes control processes that are not started yet, on one state directory."""
    state_dir = tmp_path / "state"
    own_directory(state_dir)
    made: list[ControlProcess] = []

    def make(*options: Any, **more: Any) -> ControlProcess:
        made.append(ControlProcess(nursery_of, state_dir, *options, **more))
        return made[-1]

    yield make
    for process in made:
        process.close()


@pytest.fixture
def control(make_control: Callable[..., ControlProcess]) -> ControlProcess:
    """A control process that is not started yet."""
    return make_control()
