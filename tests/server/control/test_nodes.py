"""Nodes that follow over real HTTP: what is in force elsewhere is in force here, nothing else."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from guard.checksums import damaged_file
from guard.errors import SnapshotCorrupt
from guard.follower import Active, ActivePointer, Follower
from guard.snapshot import load_snapshot, write_snapshot
from guard.uld.card import Card
from guard.uld.shelf import Shelf
from server.cli import app
from server.errors import NodeBehind, NodeFenced, Outdated
from server.keys.published import read_list
from server.nodes import agent as agent_module
from server.nodes.agent import NodeAgent
from server.nodes.channels import Channel
from server.nodes.routes import Nodes
from server.nodes.standing import NodeGate, read_standing
from server.settings import Settings
from server.state_dir import own_directory

Settle = Callable[[Callable[[], bool]], None]


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
        path, end = f"/admin/v1/jobs/{answer.json()['job']['id']}", time.monotonic() + 20
        while (job := admin.get(path).json())["state"] in ("queued", "running"):
            assert time.monotonic() < end, "the job never ended"
            time.sleep(0.01)
        found: dict[str, Any] = job
        return found

    return register


def test_nodes_apply_what_is_registered_elsewhere(
    admin: httpx.Client, node: Callable[..., Node], put: Any, settle: Settle
) -> None:
    """The job is done when every worker of every node has it; keys and corpora come along."""
    nodes = [node(name) for name in ("a", "b", "c")]
    for one in nodes:
        with pytest.raises(NodeBehind):
            one.gate.check()
        one.run_engine()
        one.start()
    settle(lambda: all(one.gate.may_serve() for one in nodes))
    made = admin.post("/admin/v1/keys", json={"name": "a client"}).json()
    assert made["in_force"]

    job = put("secret")

    assert job["state"] == "done"
    assert [one.targets() for one in nodes] == [{"secret"}] * 3
    generation = admin.get("/admin/v1/generation").json()
    assert generation["in_force"]
    kinds = sorted((f["node"], f["kind"]) for f in generation["followers"])
    assert kinds == [(n, k) for n in "abc" for k in ("gateway", "node", "worker")]
    for one in nodes:
        digest = ActivePointer(one.settings.keys).read().digest  # type: ignore[union-attr]
        assert len(read_list(one.settings.keys, digest).secrets) == 1
        corpora = one.settings.corpora
        registry = json.loads(
            (corpora / "registry" / f"{ActivePointer(corpora).read().digest}.json").read_bytes()  # type: ignore[union-attr]
        )
        assert [c["directory"] for c in registry["corpora"]] == ["@boilerplate"]
        assert (corpora / "index" / "@boilerplate" / "MANIFEST").exists()
        files = [p for p in one.settings.state_dir.rglob("*") if p.is_file()]
        assert not [p for p in files if p.stat().st_mode & 0o077]
    listed = admin.get("/admin/v1/nodes").json()["nodes"]
    assert [(n["id"], n["state"], n["lag"], n["num_workers"]) for n in listed] == [
        (name, "current", 0, 1) for name in "abc"
    ]
    metrics = admin.get("/metrics").text
    assert 'lethegate_node_generation_lag{node="b"} 0.0' in metrics
    assert 'lethegate_live_followers{kind="node"}' in metrics
    audit = admin.get("/admin/v1/audit?limit=1000").json()["records"]
    assert any(r.get("role") == "node" and "/lists/policy/" in r["path"] for r in audit)
    assert "secret" not in json.dumps([r for r in audit if r.get("role") == "node"])


def test_a_cut_off_node_goes_on_and_comes_back(
    admin: httpx.Client,
    node: Callable[..., Node],
    nodes: Nodes,
    wire: Wire,
    put: Any,
    settle: Settle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Under what it has; the change does not wait for it, and everybody can see that it lags."""
    monkeypatch.setattr("server.nodes.fleet.LIVE_SECONDS", 1.0)
    one = node()
    one.run_engine()
    one.start()
    settle(one.gate.may_serve)
    put("first")
    wire.cut()

    assert put("second")["state"] == "done"
    assert one.targets() == {"first"}
    assert one.gate.may_serve()
    assert not admin.get("/admin/v1/generation").json()["in_force"]
    (view,) = admin.get("/admin/v1/nodes").json()["nodes"]
    assert (view["state"], view["lag"], view["holds_up"]) == ("silent", 1, False)
    settle(lambda: one.agent._problems["reports"] == "ControlUnreachable")
    wire.heal()

    settle(lambda: one.targets() == {"first", "second"})
    settle(lambda: bool(admin.get("/admin/v1/generation").json()["in_force"]))


def test_past_its_longest_lag_a_node_refuses(
    node: Callable[..., Node], wire: Wire, put: Any, settle: Settle
) -> None:
    """Also after a restart, when nobody knows for how long; until it is current again."""
    one = node(node_max_lag_seconds=1)
    one.run_engine()
    one.start()
    settle(one.gate.may_serve)
    wire.cut()

    settle(lambda: not one.gate.may_serve())
    with pytest.raises(NodeBehind):
        one.gate.check()
    assert one.gate.lag_seconds() > 1
    wire.heal()
    settle(one.gate.may_serve)

    standing = json.loads((one.settings.state_dir / "node.json").read_bytes())
    standing["boot"] = "another start of the machine"
    (one.settings.state_dir / "elsewhere").mkdir()
    (one.settings.state_dir / "elsewhere" / "node.json").write_text(json.dumps(standing))
    assert not NodeGate(one.settings.state_dir / "elsewhere", 1).may_serve()
    assert NodeGate(one.settings.state_dir / "elsewhere", 0).may_serve()


def test_a_fenced_node_refuses_until_it_is_not(
    admin: httpx.Client, node: Callable[..., Node], wire: Wire, put: Any, settle: Settle
) -> None:
    """It goes on following, no change waits for it, and a restart away from the control process
    does not let it out."""
    one = node()
    one.run_engine()
    one.start()
    settle(one.gate.may_serve)

    assert admin.post("/admin/v1/nodes/a:fence", json={}).json()["state"] == "fenced"
    settle(lambda: not one.gate.may_serve())
    with pytest.raises(NodeFenced):
        one.gate.check()
    settle(lambda: bool(admin.get("/admin/v1/nodes/a").json()["refuses"]))
    assert put("while-fenced")["state"] == "done"
    settle(lambda: one.targets() == {"while-fenced"})
    told = admin.get("/metrics").text
    assert "lethegate_fenced_nodes 1.0" in told
    assert 'lethegate_nodes{state="fenced"} 1.0' in told
    assert 'lethegate_nodes{state="current"} 0.0' in told
    wire.cut()
    again = NodeGate(one.settings.state_dir, 0)
    assert not again.may_serve()
    wire.heal()
    assert admin.post("/admin/v1/nodes/a:unfence", json={}).json()["state"] != "fenced"
    settle(one.gate.may_serve)
    assert admin.post("/admin/v1/nodes/nobody:fence", json={}).status_code == 404


def test_what_is_damaged_on_its_way_is_fetched_again(
    node: Callable[..., Node], wire: Wire, put: Any, settle: Settle
) -> None:
    """A bit that flips is seen by the digest, and nothing of it comes into force."""
    put("secret")
    one = node()
    one.run_engine()
    wire.flip = b"about secret"
    one.start()

    settle(lambda: one.targets() == {"secret"})
    assert not wire.flip
    active = ActivePointer(one.settings.state_dir).read()
    assert active is not None
    assert damaged_file(one.settings.snapshots / active.digest) is None


def test_a_file_that_broke_off_goes_on_where_it_ended(
    node: Callable[..., Node], wire: Wire, put: Any, settle: Settle, settings: Settings
) -> None:
    """Also over a restart of the node."""
    put("t119", description="z" * 1_900)
    one = node()
    digest = ActivePointer(settings.state_dir).read().digest  # type: ignore[union-attr]
    length = (settings.snapshots / digest / "policy.json").stat().st_size
    draft = one.settings.snapshots / f".{digest}.draft"
    draft.mkdir(parents=True, mode=0o700)
    whole = (settings.snapshots / digest / "policy.json").read_bytes()
    (draft / ".policy.json.part").write_bytes(whole[: length // 2])
    asked: list[int] = []
    pieces = one.agent._orders.pieces
    one.agent._orders.pieces = lambda path, first: (asked.append(first), pieces(path, first))[1]  # type: ignore[method-assign]
    one.run_engine()
    one.start()

    settle(lambda: one.targets() == {"t119"})
    assert length // 2 in asked


def test_what_is_damaged_on_the_disk_is_fetched_again(
    node: Callable[..., Node], put: Any, settle: Settle
) -> None:
    """A node that starts with a damaged snapshot applies nothing of it, and mends it."""
    put("secret")
    first = node("a")
    first.start()
    settle(lambda: first.gate.may_serve())
    active = ActivePointer(first.settings.state_dir).read()
    assert active is not None
    first.stop()
    file = first.settings.snapshots / active.digest / "policy.json"
    content = bytearray(file.read_bytes())
    content[3] ^= 1
    file.write_bytes(content)
    second = node("a")
    second.run_engine()
    assert second.targets() is None
    assert {f.state.error for f in second.followers} == {"SnapshotCorrupt"}
    second.start()

    settle(lambda: second.targets() == {"secret"})


def test_nothing_earlier_comes_into_force(
    node: Callable[..., Node], nodes: Nodes, put: Any, settle: Settle, settings: Settings
) -> None:
    """Orders of an earlier lead, or an earlier pointer of the same: a replay, a former leader, or a
    control process that was restored from a backup."""
    put("first")
    nodes.fleet.lead = 7
    old = nodes.orders("a")
    one = node()
    one.run_engine()
    one.start()
    settle(lambda: one.targets() == {"first"})
    put("second")
    settle(lambda: one.targets() == {"first", "second"})
    assert one.agent._standing.lead == 7
    assert old.policy is not None
    before = ActivePointer(one.settings.state_dir).read()

    for stale in (old, old.model_copy(update={"lead": 6}), old.model_copy(update={"policy": None})):
        with pytest.raises(Outdated):
            one.agent._obey(stale)
    assert ActivePointer(one.settings.state_dir).read() == before

    nodes.fleet.lead = 3
    settle(lambda: one.agent._problems["reports"] == "Outdated")
    assert one.gate.may_serve()
    assert ActivePointer(one.settings.state_dir).read() == before


def test_erased_documents_go_from_nodes_too(
    admin: httpx.Client, node: Callable[..., Node], settle: Settle
) -> None:
    """An index is brought to the same state, without what it had before."""
    admin.post("/admin/v1/corpora", json={"id": "leak", "label": "unsafe"})
    lines = "".join(
        json.dumps({"text": f"{word} " + "one two three four five six seven eight nine ten"}) + "\n"
        for word in ("quetzal", "ocelot")
    )
    headers = {"content-type": "application/x-ndjson"}
    uploaded = admin.post("/admin/v1/corpora/leak/documents", content=lines, headers=headers)
    assert uploaded.status_code == 202, uploaded.text
    one = node()
    one.start()

    def text_here() -> bytes:
        index = one.settings.corpora / "index"
        return b"".join(p.read_bytes() for p in index.rglob("*") if p.is_file())

    settle(lambda: b"quetzal" in text_here() and b"ocelot" in text_here())
    erased = admin.delete("/admin/v1/corpora/leak/documents/0", params={"erase": "true"})
    assert erased.status_code == 202, erased.text

    settle(lambda: b"quetzal" not in text_here() and b"ocelot" in text_here())


def test_who_waits_keeps_no_process_from_ending(nodes: Nodes, put: Any) -> None:
    """A node that waits for orders is sent away when the control process is told to stop."""
    ending = threading.Event()
    waited = replace(nodes, is_ending=ending.is_set)

    def told(tag: str, seconds: float) -> str:
        return asyncio.run(waited.changed("a", tag, seconds))[1]

    tag, known = told("", 0), ""
    while tag != known:  # a process that has just begun puts in force what it has
        tag, known = told(tag, 1), tag
    threading.Timer(0.2, ending.set).start()
    began = time.monotonic()

    assert told(tag, 10) == tag
    assert 0.1 < time.monotonic() - began < 5


def test_a_policy_that_one_node_cannot_load_rules_nowhere(
    admin: httpx.Client, node: Callable[..., Node], put: Any, settle: Settle
) -> None:
    """It is taken back everywhere, and the job says which node it was."""
    nodes = [node(name) for name in "ab"]
    for one in nodes:
        one.run_engine()
        one.start()
    put("first")
    settle(lambda: all(one.targets() == {"first"} for one in nodes))
    nodes[1].refuses = "second"

    job = put("second")

    assert job["state"] == "failed"
    assert job["error"]["code"] == "policy_rejected"
    assert "of node b" in job["error"]["message"]
    settle(lambda: bool(admin.get("/admin/v1/generation").json()["in_force"]))
    assert [one.targets() for one in nodes] == [{"first"}] * 2


def test_assistants_come_with_the_policy_that_names_them(
    node: Callable[..., Node], settings: Settings, tmp_path: Path, put: Any, settle: Settle
) -> None:
    """Before it is in force there; a damaged one is fetched again, one that is not named goes."""
    put("first")
    source = tmp_path / "assistant"
    source.mkdir()
    data = {"sha256": "0" * 64, "forget": 3, "flat": 5}
    Card("base", "tokenizer", 2, 6, data, {}, {"forget": 0.5}, ["ada"]).write(source)
    (source / "config.json").write_text("{}")
    (source / "model.safetensors").write_bytes(os.urandom(700_000))
    digest = Shelf(settings.assistants).put("first", source)
    documents = {"policy": {"with": ""}, "uld": [None, {"assistant": digest}]}
    snapshot = write_snapshot(settings.snapshots, meta={}, arrays={}, documents=documents)
    pointer = ActivePointer(settings.state_dir)
    pointer.publish(50, snapshot, 1)
    one = node()
    (old := one.settings.assistants / ("0" * 64)).mkdir(parents=True)
    one.run_engine()
    one.start()

    settle(lambda: one.targets() == {"with"})
    folder = Shelf(one.settings.assistants).folder(digest)
    settle(lambda: not old.exists())
    one.stop()
    (folder / "model.safetensors").write_bytes(b"damaged")
    again = node(name="a")
    again.start()
    model = folder / "model.safetensors"
    settle(lambda: model.exists() and model.stat().st_size == 700_000)

    assert Shelf(one.settings.assistants).folder(digest) == folder


def test_nodes_from_a_shell(
    admin: httpx.Client, node: Callable[..., Node], monkeypatch: pytest.MonkeyPatch, settle: Settle
) -> None:
    """Listed, fenced until it says that it refuses, let out again, and forgotten."""
    monkeypatch.setenv("LETHEGATE_ADMIN_KEY", "admin-key")
    monkeypatch.setenv("LETHEGATE_ADMIN_PORT", str(admin.base_url.port))

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["nodes", *arguments])

    one = node()
    one.start()
    settle(one.gate.may_serve)
    assert "current" in run("list").stdout
    assert run("fence", "a").stdout == "a: fenced, refuses\n"
    assert not one.gate.may_serve()
    assert run("forget", "a").exit_code == 1
    assert json.loads(run("unfence", "a", "--json").stdout)["state"] == "current"
    settle(one.gate.may_serve)
    one.stop()
    assert json.loads(run("list", "--json").stdout)[0]["state"] == "left"
    silent = run("fence", "a", "--wait", "0.1")
    assert (
        "it may be cut off" in silent.output
        or json.loads(run("list", "--json").stdout)[0]["refuses"]
    )
    assert run("unfence", "a").exit_code == run("forget", "a").exit_code == 0
    assert run("forget", "a").exit_code == 1


def test_a_wrong_key_changes_nothing(
    node: Callable[..., Node], put: Any, settle: Settle, admin: httpx.Client
) -> None:
    """It says why, and the node is not there."""
    put("secret")
    one = node(node_key="client-key")
    one.start()

    settle(lambda: one.agent._problems["orders"] == "ControlRefused")
    assert not one.gate.may_serve()
    assert admin.get("/admin/v1/nodes").json() == {"nodes": []}
    assert read_standing(one.settings.state_dir) is not None
    assert not one.settings.snapshots.exists()
    assert Channel.POLICY not in one.agent._verified


def test_another_control_process_takes_over(
    make_control: Callable[..., Any], empty_url: Callable[[str], str], machine: Callable[..., Node]
) -> None:
    """The node finds the one that leads, and follows it under its higher epoch."""
    url = empty_url("postgresql")
    first, second = make_control(url), make_control(url)
    first.start()
    first.until(first.ready)
    second.start()
    second.until(second.ready)
    one = machine("a", ",".join(f"http://127.0.0.1:{c.port}" for c in (second, first)))
    one.run_engine()
    one.start()
    _register(first, "before")
    first.until(lambda: one.targets() == {"before"} and one.gate.may_serve())
    lead = one.agent._standing.lead
    assert second.http.get("/nodes").status_code == 503
    first.kill()

    _register(second, "after")
    second.until(lambda: one.targets() == {"before", "after"})
    second.until(lambda: one.agent._standing.lead == lead + 1)

    (view,) = second.http.get("/nodes").json()["nodes"]
    assert (view["id"], view["num_workers"]) == ("a", 1)


def _register(control: Any, name: str) -> str:
    target = {"id": name, "phrases": ["x"], "description": name}
    answer = control.http.post("/targets", json=target)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["job"]["id"])


class Network:
    """Machines that are network namespaces, each on a cable of its own to this one."""

    def __init__(self, names: str) -> None:
        """Lay the cables.

        Raises:
            OSError, subprocess.CalledProcessError: that is not allowed here.
        """
        self._mark = f"lg{os.getpid() % 10_000}"
        self.host = "10.213.77.1"
        self._made: list[list[str]] = []
        try:
            self._ip("link", "add", self._bridge, "type", "bridge")
            self._made.append(["link", "del", self._bridge])
            self._ip("addr", "add", f"{self.host}/24", "dev", self._bridge)
            self._ip("link", "set", self._bridge, "up")
            for number, name in enumerate(names):
                self._lay(name, f"10.213.77.{number + 11}/24")
        except BaseException:
            self.close()
            raise

    @property
    def _bridge(self) -> str:
        return f"{self._mark}br"

    def switch(self, name: str, state: str) -> None:
        """Set a machine's cable "down" or "up"; what was sent meanwhile is lost."""
        self._ip("link", "set", f"{self._mark}{name}", state)

    def within(self, name: str, work: Callable[[], None]) -> None:
        """Do something on a machine; threads that it starts are there, too."""
        faults: list[BaseException] = []

        def enter() -> None:
            place = os.open(f"/var/run/netns/{self._mark}{name}", os.O_RDONLY)
            try:
                if ctypes.CDLL(None, use_errno=True).setns(place, 0) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
                work()
            except BaseException as fault:
                faults.append(fault)
            finally:
                os.close(place)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        if faults:
            raise faults[0]

    def close(self) -> None:
        """Take all away."""
        for command in reversed(self._made):
            subprocess.run(["ip", *command], check=False, capture_output=True)

    def _lay(self, name: str, address: str) -> None:
        space, near, far = f"{self._mark}{name}", f"{self._mark}{name}", f"{self._mark}{name}f"
        self._ip("netns", "add", space)
        self._made.append(["netns", "del", space])
        self._ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", space)
        self._made.append(["link", "del", near])
        self._ip("link", "set", near, "master", self._bridge, "up")
        self._ip("-n", space, "addr", "add", address, "dev", far)
        self._ip("-n", space, "link", "set", far, "up")

    def _ip(self, *arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def network() -> Iterator[Network]:
    """Three machines; skips where none can be made."""
    try:
        made = Network("abc")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("network namespaces cannot be made here (root and iproute2 are needed)")
    yield made
    made.close()


def test_of_three_machines_one_is_cut_off_and_healed(
    network: Network,
    make_control: Callable[..., Any],
    machine: Callable[..., Node],
    settle: Settle,
) -> None:
    """When a change is said to be in force, nobody is served under what was: two machines apply it,
    and the third, which cannot know of it, refuses. Healed, it takes it up and serves again."""
    control = make_control(host=network.host)
    control.start()
    control.until(control.ready)
    url, nodes = f"http://{network.host}:{control.port}", dict[str, Node]()
    for name in "abc":
        one = nodes[name] = machine(name, url, node_max_lag_seconds=1)
        one.run_engine()
        network.within(name, one.start)
    job = _register(control, "first")
    settle(lambda: all(one.targets() == {"first"} for one in nodes.values()))
    settle(lambda: all(one.gate.may_serve() for one in nodes.values()))
    control.until(lambda: control.http.get(f"/jobs/{job}").json()["state"] == "done")
    network.switch("c", "down")

    job = _register(control, "second")
    control.until(lambda: control.http.get(f"/jobs/{job}").json()["state"] == "done")
    assert not nodes["c"].gate.may_serve()
    assert nodes["c"].targets() == {"first"}
    for name in "ab":
        assert nodes[name].targets() == {"first", "second"}
        assert nodes[name].gate.may_serve()
    assert control.http.get("/generation").json()["in_force"]
    states = {n["id"]: n["state"] for n in control.http.get("/nodes").json()["nodes"]}
    assert states == {"a": "current", "b": "current", "c": "silent"}
    network.switch("c", "up")

    settle(lambda: nodes["c"].targets() == {"first", "second"} and nodes["c"].gate.may_serve())
