"""What nodes count: told over HTTP, and kept once by the control process."""

from __future__ import annotations

import json
import random
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import insert, select

from guard.follower import ActivePointer
from server.database import Database
from server.errors import Conflict, ControlUnreachable, NotFound
from server.nodes import agent as agent_module
from server.nodes import counting as counting_module
from server.nodes.agent import NodeAgent
from server.nodes.counting import Counting
from server.nodes.link import Link
from server.nodes.local import Local
from server.nodes.wire import NodeReport
from server.schemas import TargetIn
from server.settings import Settings
from server.state_dir import own_directory
from server.statistics import store as store_module
from server.statistics.counts import TargetCounts
from server.statistics.files import StatisticsFile
from server.statistics.gathered import Gathered
from server.statistics.keeper import StatisticsKeeper
from server.statistics.store import StatisticsStore
from server.statistics.table import request_statistics, target_statistics
from server.store import Store
from server.target_rows import delete_targets
from tests.server.control.tallies import counted, found

BOTH = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)
ONE, TWO = "1" * 32, "2" * 32
NODE = {"authorization": "Bearer node-key"}


@pytest.fixture
def statistics(database: Database, store: Store) -> StatisticsStore:
    """The statistics of a store with two targets."""
    for target_id in ("ada", "bob"):
        store.register(TargetIn.model_validate({"id": target_id, "phrases": ["Port Sorrel"]}))
    return StatisticsStore(database)


class Node:
    """A node's settings, its gateways' files, and what tells their sum."""

    def __init__(self, folder: Path, url: str, instance: str = ONE) -> None:
        own_directory(folder)
        values = {"state_dir": folder, "control_url": url, "node_key": "node-key", "node_id": "a"}
        self.settings = Settings.model_validate(values)
        self.instance = instance
        self.link = Link(self.settings, "a")
        self.lead = 1
        local = Local(self.settings)
        self.counting = Counting(self.settings, local, self.link, instance, lambda: self.lead)

    def gateway(self) -> StatisticsFile:
        """One that has just begun."""
        return StatisticsFile(self.settings.statistics)

    def report(self) -> None:
        """Say that it is there."""
        self.link.report(NodeReport(instance=self.instance, version="1", lead=1))


@pytest.fixture
def node(tmp_path: Path, admin: httpx.Client) -> Any:
    """A node of the control process."""
    made = Node(tmp_path / "node", str(admin.base_url).rstrip("/"))
    yield made
    made.link.close()


@BOTH
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_messages_may_be_lost_late_or_repeated(
    statistics: StatisticsStore, settings: Settings, seed: int
) -> None:
    """What is kept is what was told last, beside what other nodes and this machine counted."""
    order = random.Random(seed)
    told = [counted(ada=n, **({"bob": n} if n % 2 else {}), gone=9) for n in range(1, 9)]
    messages = [m for m in told[:-1] if order.random() < 0.7] + [told[-1]] * 2 + [told[2]]
    order.shuffle(messages)
    statistics.hear(TWO, counted(ada=100))
    own = StatisticsFile(settings.statistics)
    own.write(counted(ada=1000))
    keeper = StatisticsKeeper(statistics, settings.statistics, tells_all=True)
    for message in messages:
        keeper.hear(ONE, message)
        keeper.take()
    own.close()
    keeper.take()
    bobs = [message.targets["bob"].matched for message in messages if "bob" in message.targets]

    assert {t: c.steered for t, c in statistics.everything().items()} == {
        "ada": 1108,
        "bob": max(bobs),
    }
    assert keeper.sums() == statistics.everything()
    assert statistics.requests().requests == 2200 + max(m.requests.requests for m in messages)


def test_a_withdrawn_target_takes_what_nodes_told_with_it(
    database: Database, statistics: StatisticsStore, store: Store
) -> None:
    """What takes its id begins with what is told of it then."""
    statistics.hear(ONE, counted(ada=5, bob=2))
    with database.write() as connection:
        delete_targets(connection, ["ada"])
    statistics.hear(ONE, counted(ada=5))
    store.register(TargetIn.model_validate({"id": "ada", "phrases": ["Port Sorrel"]}))
    statistics.hear(ONE, counted(ada=1))

    assert {t: c.matched for t, c in statistics.everything().items()} == {"ada": 1, "bob": 2}


@BOTH
def test_a_node_that_is_gone_is_added_up(
    database: Database, statistics: StatisticsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it is forgotten and silent for a day; then nothing more is taken from it."""
    statistics.hear(ONE, counted(ada=5))
    statistics.hear(TWO, counted(ada=2, bob=1))
    before = statistics.everything(), statistics.requests()
    statistics.close_nodes([TWO])
    statistics.hear(ONE, counted(ada=5))
    monkeypatch.setattr(store_module, "GONE_SECONDS", -1.0)
    for _ in range(2):
        statistics.close_nodes([TWO])
        with pytest.raises(Conflict):
            statistics.hear(ONE, counted(ada=6))

    assert (statistics.everything(), statistics.requests()) == before
    with database.read() as connection:
        sources = set(connection.scalars(select(request_statistics.c.source)))
    assert sources == {"", f"node:{ONE}", f"node:{TWO}"}
    monkeypatch.setattr(store_module, "CLOSED_SECONDS", -1.0)
    statistics.close_nodes([TWO])
    with database.read() as connection:
        sources = set(connection.scalars(select(request_statistics.c.source)))
    assert sources == {"", f"node:{TWO}"}
    assert (statistics.everything(), statistics.requests()) == before


def test_over_http(
    node: Node, admin: httpx.Client, statistics: StatisticsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some targets at a time, and only what has changed; after a fault all is told again."""
    monkeypatch.setattr(counting_module, "MAX_TOLD_TARGETS", 1)
    sent: list[dict[str, int]] = []
    count = node.link.count

    def noting(message: Any) -> None:
        sent.append({name: numbers["matched"] for name, numbers in message.targets.items()})
        count(message)

    monkeypatch.setattr(node.link, "count", noting)
    gateway = node.gateway()
    gateway.write(counted(ada=3, bob=1))
    with pytest.raises(NotFound):
        node.counting.tell()
    node.report()
    sent.clear()
    node.counting.tell()
    node.counting.tell()
    gateway.write(counted(ada=4, bob=1))
    node.counting.tell()
    assert sent == [{"ada": 3}, {"bob": 1}, {"ada": 4}]
    shown = admin.get("/admin/v1/targets/ada/statistics").json()
    assert (shown["prompts"]["matched"], shown["prompts"]["steered"]) == (4, 4)

    def cut(_: Any) -> None:
        raise ControlUnreachable("cut")

    monkeypatch.setattr(node.link, "count", cut)
    gateway.write(counted(ada=5, bob=1))
    node.counting._try()
    monkeypatch.setattr(node.link, "count", noting)
    sent.clear()
    node.counting._try()
    assert sent == [{"ada": 5}, {"bob": 1}]
    # The next lead may have an earlier store, put back.
    node.lead = 2
    for _ in range(2):
        node.counting.tell()
    assert sent == [{"ada": 5}, {"bob": 1}] * 2
    listed = admin.get("/admin/v1/targets").json()["targets"]
    assert {row["id"]: row["statistics"]["matched"] for row in listed} == {"ada": 5, "bob": 1}


def test_only_targets_of_the_policy_are_told(
    node: Node, admin: httpx.Client, statistics: StatisticsStore
) -> None:
    """As its snapshot names them."""
    folder = node.settings.snapshots / ("a" * 64)
    folder.mkdir(parents=True)
    (folder / "targets.json").write_text(json.dumps([{"id": "bob"}]))
    ActivePointer(node.settings.state_dir).publish(1, "a" * 64, 1)
    node.gateway().write(counted(ada=3, bob=1))
    node.report()
    node.counting.tell()

    assert {t: c.matched for t, c in statistics.everything().items()} == {"bob": 1}


def test_who_may_tell(
    node: Node, admin: httpx.Client, statistics: StatisticsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node that was heard last by this id, with its key; and only what can be a number."""
    # The node follows no keys: nobody would say that the new one is in force.
    monkeypatch.setattr("server.keys.routes.IN_FORCE_SECONDS", 0.1)
    node.report()
    good = {"instance": ONE, "requests": {"requests": 2}, "targets": {"ada": {"matched": 1}}}
    path = "/node/v1/nodes/a/counts"

    def told(body: Any, key: str = "node-key", path: str = path) -> int:
        headers = {"authorization": f"Bearer {key}"}
        return admin.put(path, json=body, headers=headers).status_code

    assert [told(good, key) for key in ("admin-key", "auditor-key", "x")] == [403, 403, 401]
    assert told(good, path="/node/v1/nodes/b/counts") == 404
    assert told(good | {"instance": TWO}) == 409
    other = admin.post("/admin/v1/keys", json={"name": "n", "role": "node"}).json()["key"]
    assert told(good, other) == 403
    for numbers in (
        *({"matched": bad} for bad in (-1, "x", 2**60, 0.5)),
        *({"screen_seconds": bad} for bad in (-0.5, 2**60, None)),
        {"a b": 1},
    ):
        assert told(good | {"targets": {"ada": numbers}}) == 422
    assert told(good | {"requests": {"requests": 1.5}}) == 422
    assert told(good | {"targets": {"../x": {}}}) == 422
    assert told(good | {"targets": {f"t{n}": {} for n in range(501)}}) == 422
    assert statistics.everything() == {}
    assert told(good | {"targets": {"ada": {"matched": 1, "of_a_newer_lethegate": 7}}}) == 200
    assert statistics.everything()["ada"] == TargetCounts(matched=1)
    acts = admin.get("/admin/v1/audit", params={"event": "admin"}).json()["records"]
    assert not [act for act in acts if act["path"].endswith("/counts") and act["status"] == 200]


def test_no_node_breaks_what_is_shown(
    node: Node, admin: httpx.Client, database: Database, statistics: StatisticsStore
) -> None:
    """Neither by a clock that runs ahead, nor by what was stored before numbers were checked."""
    rows = [
        {"target_id": "ada", "source": f"node:{ONE}", "counts": {"matched": 0.5}},
        {"target_id": "ada", "source": f"node:{TWO}", "counts": {"last_matched_at": 2**53}},
        {"target_id": "bob", "source": f"node:{TWO}", "counts": {"matched": 7, "steered": 1.5}},
    ]
    with database.write() as connection:
        connection.execute(insert(target_statistics), rows)

    def shown() -> list[Any]:
        one = admin.get("/admin/v1/targets/ada/statistics")
        listed = admin.get("/admin/v1/targets")
        assert (one.status_code, listed.status_code) == (200, 200)
        uses = {row["id"]: row["statistics"] for row in listed.json()["targets"]}
        assert (uses["bob"]["matched"], uses["bob"]["steered"]) == (7, 1)
        return [uses["ada"]["matched"], one.json()["last_matched_at"], one.json()["cost"]["share"]]

    matched, last, _ = shown()
    assert (matched, datetime.fromisoformat(last) <= datetime.now(UTC)) == (0, True)
    node.report()
    told = {"matched": 2, "last_matched_at": 2**53, "shield_seconds": 2**53}
    body = {"instance": ONE, "requests": {"shield_seconds": 5e-324}, "targets": {"ada": told}}
    assert admin.put("/node/v1/nodes/a/counts", json=body, headers=NODE).status_code == 200
    matched, last, share = shown()
    assert (matched, share) == (2, 1.0)
    assert datetime.fromisoformat(last) <= datetime.now(UTC)
    with database.read() as connection:
        of_node = target_statistics.c.source == f"node:{ONE}"
        [stored] = connection.scalars(select(target_statistics.c.counts).where(of_node))
    assert stored["last_matched_at"] <= time.time()


def test_a_new_node_leaves_out_what_was_counted_before(tmp_path: Path) -> None:
    """Of a server that was none; at its next start it is one, and leaves out nothing."""
    node = Node(tmp_path / "node", "http://127.0.0.1:9")
    node.link.close()
    for name in ("before", "since"):
        gateway = node.gateway()
        gateway.write(counted(ada=3))
        gateway.close()
        if name == "since":
            (node.settings.statistics / "ended.json").write_text(
                json.dumps({"requests": {}, "targets": {"ada": {"matched": 4}}, "names": []})
            )
        agent = NodeAgent(node.settings)
        agent.start()
        agent.stop()
        total = found(Gathered(node.settings.statistics).sum())
        assert total == ({} if name == "before" else {"ada": 7})


def test_an_agent_tells_and_killed_processes_lose_nothing(
    control: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the control process, of the agent and of a gateway, each in the middle of its work."""
    monkeypatch.setattr(counting_module, "TELL_SECONDS", 0.05)
    monkeypatch.setattr(agent_module, "LONGEST_WAIT_SECONDS", 0.5)
    monkeypatch.setattr(agent_module, "_RETRY_SECONDS", 0.1)
    control.start()
    control.until(control.ready)
    job = control.http.post("/targets", json={"id": "ada", "phrases": ["x"]}).json()["job"]["id"]
    control.until(lambda: control.http.get(f"/jobs/{job}").json()["state"] == "done")
    node = Node(tmp_path / "node", f"http://127.0.0.1:{control.port}")
    node.link.close()

    def steered() -> int:
        answer = control.http.get("/targets/ada/statistics")
        return int(answer.json()["prompts"]["steered"]) if answer.is_success else -1

    agent = NodeAgent(node.settings)
    agent.start()
    killed, gateway = node.gateway(), node.gateway()
    killed.write(counted(ada=2))
    gateway.write(counted(ada=3))
    control.until(lambda: steered() == 5)
    control.kill()
    killed.close()
    gateway.write(counted(ada=4))
    control.start()
    control.until(lambda: steered() == 6)
    agent.stop()
    gateway.write(counted(ada=9))
    agent = NodeAgent(node.settings)
    agent.start()
    control.until(lambda: steered() == 11)
    gateway.write(counted(ada=10))
    gateway.close()
    agent.stop()

    control.until(lambda: steered() == 12)
