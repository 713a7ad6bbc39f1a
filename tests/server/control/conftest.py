"""Fixtures of the control side: real SQLite files, a real job worker, a real HTTP server."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from prometheus_client import CollectorRegistry
from sqlalchemy import make_url

from guard.follower import Follower
from server.activation import SnapshotPublisher
from server.database import Database
from server.jobs import JobWorker
from server.metrics.control import ControlMetrics
from server.nodes.fleet import Fleet
from server.nodes.offer import Offer
from server.nodes.routes import Nodes
from server.nodes.store import NodeStore
from server.settings import Settings
from server.state_dir import own_directory
from server.statistics.keeper import StatisticsKeeper
from server.statistics.store import StatisticsStore
from server.store import Store
from server.worklist import Worklist
from tests.server.control.admin_api import admin_api
from tests.server.control.control_process import PATIENCE_SECONDS, ControlProcess, Nursery
from tests.server.control.fake_control import QuickCompiler
from tests.server.control.following import following

ADMIN = {"authorization": "Bearer admin-key"}


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
def compiler(settings: Settings) -> QuickCompiler:
    """A small true compiler."""
    return QuickCompiler(settings.snapshots)


@pytest.fixture
def make_worker(
    store: Store, worklist: Worklist, publisher: SnapshotPublisher, compiler: QuickCompiler
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
    with following(settings.state_dir) as start:
        yield start


@pytest.fixture
def settle() -> Callable[[Callable[[], bool]], None]:
    """Wait until a condition holds, or fail after a minute."""

    def wait(condition: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_SECONDS
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
        end = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < end:
            with suppress(FileNotFoundError):
                found = {p: (p.stat().st_mode, p.read_bytes()) for p in sorted(names(folder))}
                if set(found) == names(folder):
                    return found
        pytest.fail("files come and go all the time")

    return look


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
    monkeypatch.setattr("server.keys.routes.IN_FORCE_SECONDS", PATIENCE_SECONDS)
    parts = (settings, database, store, nodes, publisher, make_worker, served_model, endpoint_url)
    with (
        admin_api(*parts) as url,
        httpx.Client(
            base_url=url, headers=ADMIN, timeout=PATIENCE_SECONDS, trust_env=False
        ) as client,
    ):
        yield client


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
