"""The nodes as the control process sees them: who is waited for, who may say what."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from guard.follower import Active
from server.database import Database
from server.errors import Conflict, Forbidden, NotFound, NotReady
from server.metrics.control import ControlMetrics
from server.metrics.nodes import NODE_STATES
from server.nodes.channels import Channel
from server.nodes.fleet import LIVE_SECONDS, Fleet, NodeState
from server.nodes.store import NodeStore
from server.nodes.wire import ChannelReport, FollowerReport, NodeReport

OLD, NEW = "a" * 64, "b" * 64


@dataclass
class Clock:
    """A clock that is put forward."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """The control process's clock."""
    return Clock()


@pytest.fixture
def fleet(database: Database, clock: Clock) -> Fleet:
    """The nodes of a process that leads; generation 2 is in force."""
    fleet = Fleet(NodeStore(database), lambda channel: Active(2, NEW, 1), clock)
    fleet.begin(1)
    return fleet


def applied(generation: int, digest: str, **more: Any) -> NodeReport:
    """A node's report with a worker, both under one policy."""
    worker = FollowerReport(
        kind="worker", pid=7, generation=generation, digest=digest, failed_generation=0, error=""
    )
    policy = ChannelReport(generation=generation, digest=digest, epoch=1, followers=[worker])
    known = {"instance": "1" * 32, "version": "1", "lead": 1, "policy": policy}
    return NodeReport(**{**known, **more})


def test_a_change_waits_for_the_node_and_its_workers(fleet: Fleet) -> None:
    """Both count, each with what it applies itself."""
    fleet.hear("a", "key", applied(1, OLD))
    (node, worker) = fleet.followers(Channel.POLICY)

    assert (node.kind, node.node, node.generation) == ("node", "a", 1)
    assert (worker.kind, worker.node, worker.generation, worker.pid) == ("worker", "a", 1, 7)
    assert fleet.view("a").state is NodeState.BEHIND
    assert fleet.view("a").lag == 1
    assert not fleet.all_apply()

    fleet.hear("a", "key", applied(2, NEW))

    assert [f.generation for f in fleet.followers(Channel.POLICY)] == [2, 2]
    assert fleet.view("a").state is NodeState.CURRENT
    assert fleet.all_apply()


@pytest.mark.parametrize(("generation", "digest"), [(2, OLD), (9, OLD)])
def test_what_another_history_numbered_counts_for_nothing(
    fleet: Fleet, generation: int, digest: str
) -> None:
    """A node that followed what this store was restored from has not acknowledged our policy."""
    fleet.hear("a", "key", applied(generation, digest))

    assert [f.generation for f in fleet.followers(Channel.POLICY)] == [0, None]
    assert fleet.view("a").lag == 2


def test_a_silent_node_is_not_waited_for(fleet: Fleet, clock: Clock) -> None:
    """It goes on under what it has; everybody can see that not all apply what is in force."""
    fleet.hear("a", "key", applied(1, OLD))
    clock.now += LIVE_SECONDS + 0.1

    assert fleet.followers(Channel.POLICY) == []
    assert fleet.view("a").state is NodeState.SILENT
    assert not fleet.all_apply()


def test_one_that_stops_by_itself_is_waited_for_until_then(fleet: Fleet, clock: Clock) -> None:
    """With a longest lag nobody can still be served under the old policy when the change ends."""
    fleet.hear("a", "key", applied(1, OLD, max_lag_seconds=60))
    clock.now += 60

    assert [f.kind for f in fleet.followers(Channel.POLICY)] == ["node"]
    assert not fleet.all_apply()

    clock.now += 7

    assert fleet.followers(Channel.POLICY) == []
    assert fleet.all_apply()


def test_a_fenced_node_is_not_waited_for(fleet: Fleet, database: Database) -> None:
    """The fence outlives the process, and a node that is forgotten while it lives stays."""
    fleet.hear("a", "key", applied(1, OLD))

    assert fleet.fence("a", True).state is NodeState.FENCED
    assert fleet.followers(Channel.POLICY) == []
    assert fleet.all_apply()
    with pytest.raises(Conflict):
        fleet.forget("a")

    after = Fleet(NodeStore(database), lambda channel: Active(2, NEW, 1))
    after.begin(2)
    after.hear("a", "key", applied(1, OLD))

    assert after.is_fenced("a")
    assert after.fence("a", False).state is NodeState.BEHIND
    with pytest.raises(NotFound):
        after.fence("b", True)


def test_the_next_leader_gives_nodes_time_to_come_again(database: Database, clock: Clock) -> None:
    """Until then it waits for them, as nobody knows yet whether they live."""
    first = Fleet(NodeStore(database), lambda channel: Active(2, NEW, 1), clock)
    first.begin(1)
    first.hear("a", "key", applied(1, OLD))
    first.hear("b", "key", applied(2, NEW, instance="2" * 32, left=True))
    second = Fleet(NodeStore(database), lambda channel: Active(2, NEW, 2), clock)
    second.begin(2)

    assert {f.node for f in second.followers(Channel.POLICY)} == {"a"}
    assert [v.state for v in second.all()] == [NodeState.BEHIND, NodeState.LEFT]

    clock.now += LIVE_SECONDS + 0.1

    assert second.followers(Channel.POLICY) == []


def test_two_machines_cannot_be_one_node(fleet: Fleet, clock: Clock) -> None:
    """Nor can another key speak for a node; when the first is silent, the second may follow it."""
    fleet.hear("a", "key", applied(1, OLD))

    with pytest.raises(Conflict):
        fleet.hear("a", "key", applied(2, NEW, instance="2" * 32))
    with pytest.raises(Forbidden):
        fleet.hear("a", "other", applied(2, NEW))
    assert fleet.view("a").lag == 1

    clock.now += LIVE_SECONDS + 0.1
    fleet.hear("a", "key", applied(2, NEW, instance="2" * 32))
    assert fleet.view("a").lag == 0


def test_not_everyone_counts_under_a_nodes_id(fleet: Fleet, clock: Clock) -> None:
    """Else a node's key could fill the store; what is no new one goes on, and all are heard."""
    names = [f"{number:032x}" for number in range(10)]

    def counts(name: str) -> None:
        fleet.hear("a", "key", applied(2, NEW, instance=name))
        fleet.admit_counts("a", "key", name)
        fleet.hear("a", "key", applied(2, NEW, instance=name, left=True))

    for name in [*names[:8], *names[:8]]:
        counts(name)
    for name in names[8:]:
        with pytest.raises(Conflict, match="too often"):
            counts(name)
        assert fleet.view("a").state is NodeState.CURRENT
        fleet.hear("a", "key", applied(2, NEW, instance=name, left=True))
    counts(names[0])
    clock.now += 24 * 3600 + 1
    counts(names[8])


def test_how_nodes_stand_is_measured(fleet: Fleet, clock: Clock) -> None:
    """In every state that one may have which has not left, and of fenced ones no lag."""
    fleet.hear("silent", "key", applied(2, NEW))
    clock.now += LIVE_SECONDS + 0.1
    fleet.hear("current", "key", applied(2, NEW))
    fleet.hear("behind", "key", applied(1, OLD))
    fleet.hear("fenced", "key", applied(1, OLD))
    fleet.hear("left", "key", applied(1, OLD, left=True))
    fleet.fence("fenced", True)
    registry = CollectorRegistry()
    ControlMetrics(registry, list, fleet.facts)
    told = generate_latest(registry).decode()

    assert set(NODE_STATES) == {state.value for state in NodeState} - {"left"}
    for state in NODE_STATES:
        assert registry.get_sample_value("lethegate_nodes", {"state": state}) == 1
    assert registry.get_sample_value("lethegate_fenced_nodes") == 1
    lag = 'lethegate_node_generation_lag{node="'
    assert [line.partition('"')[2] for line in told.splitlines() if line.startswith(lag)] == [
        'behind"} 1.0',
        'current"} 0.0',
        'silent"} 0.0',
    ]


def test_nobody_is_told_anything_before_there_is_a_lead(database: Database) -> None:
    """A process that stands by sends nodes on to the one that leads."""
    with pytest.raises(NotReady):
        Fleet(NodeStore(database), lambda channel: None).require_lead()


NODE = {"authorization": "Bearer node-key"}
PLACES = (
    *("nodes/a/orders", f"lists/policy/{OLD}", f"snapshots/{OLD}/x", f"assistants/{OLD}"),
    *(f"assistants/{OLD}/x", "indexes/x", "indexes/x/y"),
)


def test_a_nodes_key_opens_what_is_for_nodes(admin: httpx.Client) -> None:
    """No other does, not even an admin's; and it opens nothing else."""
    keys = (("admin-key", 403), ("auditor-key", 403), ("client-key", 403), ("x", 401))
    for place in PLACES:
        for key, status in keys:
            answer = admin.get(f"/node/v1/{place}", headers={"authorization": f"Bearer {key}"})
            assert answer.status_code == status
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert admin.get(f"/node/v1/{place}", headers=NODE).status_code in (200, 404)
    for path in ("targets", "targets:export", "jobs", "nodes", "keys", "audit", "generation"):
        assert admin.get(f"/admin/v1/{path}", headers=NODE).status_code == 403, path
    assert admin.post("/admin/v1/nodes/a:fence", headers=NODE, json={}).status_code == 403
    assert admin.put("/node/v1/nodes/a", json={}).status_code == 403


def test_only_what_is_in_force_is_offered(admin: httpx.Client, settings: Any) -> None:
    """No other file of the state directory, and no snapshot that was."""
    _wait_for_policy(admin)
    orders = admin.get("/node/v1/nodes/a/orders", headers=NODE).json()
    digest = orders["policy"]["digest"]
    other = settings.snapshots / OLD
    other.mkdir()
    (other / "manifest.json").write_text("{}")
    (other / "x").write_text("secret")

    assert admin.get(f"/node/v1/lists/policy/{digest}", headers=NODE).status_code == 200
    for place in (
        f"lists/policy/{OLD}",
        f"snapshots/{OLD}/x",
        f"snapshots/{digest}/..%2F..%2Fadmin.key",
        f"snapshots/{digest}/%2e%2e",
        "indexes/..",
        "indexes/@boilerplate/LOCK",
        f"indexes/..%2F..%2Fsnapshots%2F{digest}/policy.json",
        f"lists/keys/{digest}",
    ):
        assert admin.get(f"/node/v1/{place}", headers=NODE).status_code == 404, place


def test_only_a_node_that_knows_of_its_fence_refuses_for_it(admin: httpx.Client) -> None:
    """What it said before it was fenced, or fenced again, is not taken for an answer to that."""
    early = {**applied(1, OLD).model_dump(mode="json"), "refuses": True}
    informed = {**early, "fenced": True}

    def said(report: dict[str, Any]) -> bool:
        assert admin.put("/node/v1/nodes/a", headers=NODE, json=report).status_code == 200
        return bool(admin.get("/admin/v1/nodes/a").json()["refuses"])

    assert said(early)
    assert not admin.post("/admin/v1/nodes/a:fence", json={}).json()["refuses"]
    assert not said(early)
    assert said(informed)
    admin.post("/admin/v1/nodes/a:unfence", json={})
    assert not admin.post("/admin/v1/nodes/a:fence", json={}).json()["refuses"]
    assert said(informed)


def test_reports_are_checked(admin: httpx.Client) -> None:
    """In the API's own shape; and no heartbeat is an act that is audited."""
    _wait_for_policy(admin)
    good = applied(1, OLD).model_dump(mode="json")

    assert admin.put("/node/v1/nodes/a", headers=NODE, json=good).status_code == 200
    for bad in ({**good, "lead": -1}, {**good, "instance": "x"}, {**good, "problem": "a b"}):
        answer = admin.put("/node/v1/nodes/a", headers=NODE, json=bad)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_field")
    node = admin.get("/admin/v1/nodes/a").json()
    assert (node["state"], node["num_workers"], node["refuses"]) == ("behind", 1, False)
    records = admin.get("/admin/v1/audit").json()["records"]
    assert not [r for r in records if r.get("path", "").startswith("/node/v1/nodes/")]
    assert admin.delete("/admin/v1/nodes/a").status_code == 200
    assert admin.get("/admin/v1/nodes/a").status_code == 404


def _wait_for_policy(admin: httpx.Client) -> None:
    end = time.monotonic() + 60
    while admin.get("/admin/v1/generation").status_code != 200:
        assert time.monotonic() < end
        time.sleep(0.02)
