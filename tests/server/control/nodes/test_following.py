"""Nodes that follow over real HTTP: what is in force elsewhere is in force here, nothing else."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from guard.follower import ActivePointer
from server.errors import NodeBehind, NodeFenced, Outdated
from server.keys.published import read_list
from server.nodes.channels import Channel
from server.nodes.routes import Nodes
from server.nodes.standing import NodeGate, read_standing
from server.settings import Settings

Settle = Callable[[Callable[[], bool]], None]


def test_nodes_apply_what_is_registered_elsewhere(
    admin: httpx.Client,
    node: Callable[..., Any],
    put: Any,
    settle: Settle,
    files_in: Callable[[Path], dict[Path, tuple[int, bytes]]],
) -> None:
    """The job is done when every worker of every node has it; keys and corpora come along."""
    nodes = [node(name) for name in ("a", "b", "c")]
    for one in nodes:
        with pytest.raises(NodeBehind):
            one.gate.check()
        one.run_engine()
        one.start()
    settle(lambda: all(one.gate.may_serve() for one in nodes))
    # Here, unlike in a control process, they may be open only after nodes have asked for them.
    settle(lambda: all(ActivePointer(one.settings.corpora).read() for one in nodes))
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
        files = files_in(one.settings.state_dir)
        assert not [path for path, (mode, _) in files.items() if mode & 0o077]
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
    node: Callable[..., Any],
    nodes: Nodes,
    wire: Any,
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
    # A node that was not heard of for a second is not waited for.
    settle(lambda: one.targets() == {"first"})
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
    node: Callable[..., Any], wire: Any, put: Any, settle: Settle
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
    admin: httpx.Client, node: Callable[..., Any], wire: Any, put: Any, settle: Settle
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


def test_nothing_earlier_comes_into_force(
    node: Callable[..., Any], nodes: Nodes, put: Any, settle: Settle, settings: Settings
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


def test_who_waits_keeps_no_process_from_ending(nodes: Nodes, put: Any) -> None:
    """A node that waits for orders is sent away when the control process is told to stop."""
    ending = threading.Event()
    waited = replace(nodes, is_ending=ending.is_set)

    def told(tag: str, seconds: float) -> str:
        return asyncio.run(waited.changed("a", tag, seconds))[1]

    tag, known = told("", 0), ""
    while tag != known:  # a process that has just begun puts in force what it has
        tag, known = told(tag, 1), tag
    began = time.monotonic()
    threading.Timer(0.2, ending.set).start()

    assert told(tag, 60) == tag
    assert 0.1 < time.monotonic() - began < 30


def test_a_policy_that_one_node_cannot_load_rules_nowhere(
    admin: httpx.Client, node: Callable[..., Any], put: Any, settle: Settle
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


def test_a_wrong_key_changes_nothing(
    node: Callable[..., Any], put: Any, settle: Settle, admin: httpx.Client
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
