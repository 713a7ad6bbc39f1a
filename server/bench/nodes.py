"""`lethegate bench nodes`: how long a policy takes to the nodes, over real HTTP on this machine."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fastapi import FastAPI, Request
from pydantic import SecretStr
from rich.progress import Progress
from starlette.responses import JSONResponse

from guard.follower import Active, ActivePointer, Follower, followers
from guard.snapshot import load_snapshot
from guard.vocabulary import Vocabulary
from server.admin_port import uvicorn_server
from server.auth import KeyRing, Role
from server.bench.errors import ServerDied
from server.bench.figures import spread
from server.bench.spellings import invented_phrases
from server.bench.step_cost import compile_phrases
from server.bench.vocabularies import tekken
from server.body import error_response
from server.database import Database
from server.errors import ServerError
from server.nodes.channels import Channel
from server.nodes.fleet import Fleet
from server.nodes.offer import Offer
from server.nodes.routes import Nodes, node_router
from server.nodes.store import NodeStore
from server.settings import Settings
from server.settings_sources import as_environment
from server.state_dir import own_directory
from server.statistics.keeper import StatisticsKeeper
from server.statistics.store import StatisticsStore

METHOD = (
    "Each node is a process of `lethegate node` with a state directory of its own, and a worker's "
    "and a gateway's follower that read and check the snapshot. Timed is from moving the control "
    "process's pointer to a new snapshot until it knows that all of them apply it; local_s is the "
    "same with followers beside the control process only."
)
_PATIENCE_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class NodesPlan:
    """What to measure: a policy of so many phrases, new in every repetition."""

    phrases: int = 10_000
    nodes: int = 3
    repetitions: int = 5


def bench_nodes(plan: NodesPlan, progress: Progress) -> dict[str, Any]:
    """Start nodes, distribute policies, end them; gives the report's flat figures.

    Raises:
        BenchError: a node ended, or did not take a policy up in time.
    """
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lethegate-bench-")))
        settings = Settings(state_dir=root / "control")
        own_directory(settings.state_dir)
        digests, megabytes = _compile(plan, settings.snapshots, progress)
        key = secrets.token_urlsafe(24)
        fleet, url = stack.enter_context(_control(settings, key))
        local = _Timed(settings, lambda: followers(settings.state_dir))
        stack.enter_context(_followers(settings))
        alone = [local.put(digest) for digest in digests[: plan.repetitions]]
        for number in range(plan.nodes):
            stack.enter_context(_node(root / f"node-{number}", f"node-{number}", url, key))
        remote = _Timed(settings, lambda: fleet.followers(Channel.POLICY))
        remote.wait(lambda: len(remote.known()) == 3 * plan.nodes and remote.is_done())
        task = progress.add_task("distributing", total=plan.repetitions)
        taken = []
        for digest in digests[plan.repetitions :]:
            taken.append(remote.put(digest))
            progress.advance(task)
    return {
        "method": METHOD,
        "nodes": plan.nodes,
        "phrases": plan.phrases,
        "snapshot_mb": round(megabytes, 2),
        **spread("local_s", alone),
        **spread("distribution_s", taken),
    }


class _Timed:
    """Publishes policies and waits for those who are to take them up."""

    def __init__(self, settings: Settings, known: Callable[[], Sequence[Any]]) -> None:
        self._pointer, self.known = ActivePointer(settings.state_dir), known

    def put(self, digest: str) -> float:
        """Put a snapshot in force; the seconds until all apply it."""
        active = self._pointer.read()
        generation = 1 if active is None else active.generation + 1
        begin = time.perf_counter()
        self._pointer.publish(generation, digest, 1)
        self.wait(self.is_done)
        return time.perf_counter() - begin

    def is_done(self) -> bool:
        """Whether all apply what is in force."""
        active = self._pointer.read()
        return active is not None and all(
            (f.generation or 0) >= active.generation for f in self.known()
        )

    def wait(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition.

        Raises:
            ServerDied: it does not come about.
        """
        end = time.monotonic() + _PATIENCE_SECONDS
        while not condition():
            if time.monotonic() > end:
                raise ServerDied("the nodes did not take a policy up in time")
            time.sleep(0.005)


def _compile(plan: NodesPlan, snapshots: Path, progress: Progress) -> tuple[list[str], float]:
    """The digests of as many policies as are needed, and the megabytes of one."""
    vocabulary, digests, size = Vocabulary(tekken().tokens), list[str](), 0.0
    phrases = invented_phrases(plan.phrases + 2 * plan.repetitions)
    task = progress.add_task("compiling", total=2 * plan.repetitions)
    for first in range(2 * plan.repetitions):
        compiled = compile_phrases(phrases[first : first + plan.phrases], vocabulary, snapshots)
        digests.append(compiled.digest)
        size = compiled.megabytes
        progress.advance(task)
    return digests, size


@contextmanager
def _control(settings: Settings, key: str) -> Iterator[tuple[Fleet, str]]:
    """What a control process has for nodes, on a port of this machine."""
    database, offer = Database(settings.store_url), Offer(settings)
    fleet = Fleet(NodeStore(database), offer.active)
    fleet.begin(1)
    keeper = StatisticsKeeper(StatisticsStore(database), settings.statistics)
    nodes = Nodes(fleet, offer, keeper, lambda: server.should_exit)
    app = FastAPI()
    app.state.control = SimpleNamespace(nodes=nodes, keyring=KeyRing({key: Role.NODE}))
    app.include_router(node_router)
    app.add_exception_handler(ServerError, _refused)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn_server(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield fleet, f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
        database.close()


async def _refused(_request: Request, error: Exception) -> JSONResponse:
    return error_response(error)


@contextmanager
def _node(folder: Path, name: str, url: str, key: str) -> Iterator[None]:
    """A node's process, and those who follow on its machine."""
    settings = Settings(
        state_dir=folder, control_url=url, node_id=name, node_key=SecretStr(key), log_level="error"
    )
    own_directory(folder)
    command = [sys.executable, "-P", "-m", "server", "node"]
    with _followers(settings), subprocess.Popen(command, env=_environment(settings)) as process:
        try:
            yield
        finally:
            process.terminate()


def _environment(settings: Settings) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("LETHEGATE_")}
    return kept | as_environment(settings)


@contextmanager
def _followers(settings: Settings) -> Iterator[None]:
    def load(active: Active) -> None:
        load_snapshot(settings.snapshots, active.digest)

    started = [Follower(settings.state_dir, kind, load) for kind in ("worker", "gateway")]
    for follower in started:
        follower.start()
    try:
        yield
    finally:
        for follower in started:
            follower.stop()
