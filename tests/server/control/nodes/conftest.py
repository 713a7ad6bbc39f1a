"""Nodes beside a control process, and the wire between them."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from guard.errors import SnapshotCorrupt
from guard.follower import Active, Follower
from guard.snapshot import load_snapshot
from server.nodes import agent as agent_module
from server.nodes.agent import NodeAgent
from server.nodes.standing import NodeGate
from server.settings import Settings
from server.state_dir import own_directory


class Wire:
    """A way between a node and the control process, which can be cut, and damages what it carries.

    `flip` is what the next answer that holds it has changed on its way.
    """

    def __init__(self, port: int) -> None:
        self._to = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.flip = b""
        self._open: list[socket.socket] = []
        self._is_cut = False
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """No byte passes from now on."""
        self._is_cut = True
        for connection in self._open:
            _end(connection)

    def heal(self) -> None:
        """New connections pass."""
        self._is_cut = False

    def close(self) -> None:
        """End all."""
        self.cut()
        _end(self._listener)
        self._thread.join()
        self._listener.close()
        for connection in self._open:
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self._is_cut:
                _end(near)
                near.close()
                continue
            self._open.append(near)
            try:
                far = socket.create_connection(self._to)
            except OSError:
                _end(near)
                continue
            self._open.append(far)
            for source, sink, back in ((near, far, False), (far, near, True)):
                threading.Thread(target=self._carry, args=(source, sink, back), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, back: bool) -> None:
        try:
            while data := source.recv(65536):
                if back and self.flip and self.flip in data:
                    data = data.replace(self.flip, bytes([self.flip[0] ^ 1, *self.flip[1:]]))
                    self.flip = b""
                sink.sendall(data)
        except OSError:
            pass
        _end(source)
        _end(sink)


def _end(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class Node:
    """A node with its agent, a gateway's and a worker's follower, and a gateway's gate."""

    def __init__(self, folder: Path, name: str, url: str, **more: Any) -> None:
        own_directory(folder)
        self.settings = Settings.model_validate(
            {"state_dir": folder, "control_url": url, "node_key": "node-key", "node_id": name}
            | more
        )
        self.gate = NodeGate(folder, self.settings.node_max_lag_seconds)
        self.policies: list[set[str]] = []
        self.refuses = ""
        self.followers: list[Follower] = []
        self.agent = NodeAgent(self.settings)
        self.started = False

    def start(self) -> None:
        """Start the agent."""
        self.started = True
        self.agent.start()

    def run_engine(self) -> None:
        """Start what follows the policy here."""
        for kind in ("worker", "gateway"):
            follower = Follower(self.settings.state_dir, kind, self._load)
            follower.start()
            self.followers.append(follower)

    def targets(self) -> set[str] | None:
        """The targets of the policy that the processes here apply."""
        return self.policies[-1] if self.policies else None

    def stop(self) -> None:
        """End all."""
        if self.started:
            self.agent.stop()
        self.started = False
        for follower in self.followers:
            follower.stop()
        self.followers.clear()

    def _load(self, active: Active) -> None:
        snapshot = load_snapshot(self.settings.snapshots, active.digest)
        targets = set(snapshot.document("policy"))
        if self.refuses in targets:
            raise SnapshotCorrupt("as the test wants it")
        self.policies.append(targets)


@pytest.fixture
def wire(admin: httpx.Client) -> Iterator[Wire]:
    """The way to the control process."""
    wire = Wire(int(admin.base_url.port or 0))
    yield wire
    wire.close()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Node]]:
    """Makes nodes of the control process at an address."""
    monkeypatch.setattr(agent_module, "_RETRY_SECONDS", 0.1)
    monkeypatch.setattr(agent_module, "HEARTBEAT_SECONDS", 0.3)
    monkeypatch.setattr(agent_module, "LONGEST_WAIT_SECONDS", 1.0)
    made: list[Node] = []

    def make(name: str, url: str, **more: Any) -> Node:
        made.append(Node(tmp_path / f"node-{name}", name, url, **more))
        return made[-1]

    yield make
    for one in made:
        one.agent._stop.set()
    for one in made:
        one.stop()


@pytest.fixture
def node(wire: Wire, machine: Callable[..., Node]) -> Callable[..., Node]:
    """Makes nodes that ask over the wire."""
    return lambda name="a", **more: machine(name, wire.url, **more)


@pytest.fixture
def put(admin: httpx.Client) -> Callable[[str], dict[str, Any]]:
    """Registers a target and waits for its job."""

    def register(name: str, **more: Any) -> dict[str, Any]:
        target = {"id": name, "phrases": ["x"], "description": f"about {name}"} | more
        answer = admin.post("/admin/v1/targets", json=target)
        assert answer.status_code == 202, answer.text
        path, end = f"/admin/v1/jobs/{answer.json()['job']['id']}", time.monotonic() + 60
        while (job := admin.get(path).json())["state"] in ("queued", "running"):
            assert time.monotonic() < end, "the job never ended"
            time.sleep(0.01)
        found: dict[str, Any] = job
        return found

    return register
