"""API keys: the admin API, the store, and the gateways that follow."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner

from detectors.targets import Enforcement
from guard.decision import Decision, Verdict
from guard.follower import ActivePointer
from guard.key_scope import KeyScope
from guard.params import GuardParams
from server.apis.chat import Chat
from server.auth import KeyRing, Role, load_keyring
from server.cli import app
from server.database import Database
from server.errors import Conflict, Forbidden, KeysUnreadable, NotFound, Unauthorized
from server.keys import store as store_module
from server.keys.counters import Counters
from server.keys.follow import KeysFollower
from server.keys.limits import Limiter, Limits
from server.keys.publisher import KeyPublisher
from server.keys.store import KeyStore
from server.metrics.gateway import GatewayMetrics
from server.settings import Settings
from server.steering import steer

KEYS = "/admin/v1/keys"
Settle = Callable[[Callable[[], bool]], None]


@pytest.fixture
def gateway_keys(settings: Settings) -> Iterator[Callable[[], KeyRing]]:
    """Keyrings of gateways that follow what is published."""
    started: list[KeysFollower] = []

    def start() -> KeyRing:
        follower = KeysFollower(settings.keys, GatewayMetrics(CollectorRegistry()))
        follower.start()
        started.append(follower)
        return load_keyring(settings, follower.current)

    yield start
    for follower in started:
        follower.stop()


@pytest.fixture
def ring(admin: httpx.Client, gateway_keys: Callable[[], KeyRing], settle: Settle) -> KeyRing:
    """The keyring of a gateway beside a running admin API."""
    ring = gateway_keys()
    settle(lambda: ring.readable)
    return ring


def _opens(ring: KeyRing, key: str) -> bool:
    return ring.identify(f"Bearer {key}") is not None


def _make(admin: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = admin.post(KEYS, json={"name": "alice", **fields})
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    made: dict[str, Any] = answer.json()
    assert made["in_force"]
    return made


def test_a_key_works_when_the_answer_is_there(admin: httpx.Client, ring: KeyRing) -> None:
    """A made key opens the gateway at once, as the client that it names."""
    made = _make(admin)
    caller = ring.admit(f"Bearer {made['key']}")

    assert (caller.id, caller.role) == (made["id"], Role.CLIENT)
    assert ring.admit("Bearer client-key").id == "settings-client-1"
    with pytest.raises(Unauthorized):
        ring.admit(f"Bearer {made['key'][:-1]}")


def test_a_key_is_shown_once_and_kept_as_a_hash(
    admin: httpx.Client, ring: KeyRing, settings: Settings
) -> None:
    """Neither lists nor any file of the state directory hold it."""
    made = _make(admin)
    rotated = admin.post(f"{KEYS}/{made['id']}:rotate", json={}).json()
    shown = admin.get(KEYS).text + admin.get(f"{KEYS}/{made['id']}").text
    files = [path for path in settings.state_dir.rglob("*") if path.is_file()]

    for key in (made["key"], rotated["key"]):
        assert key[:9] in shown
        assert key[9:] not in shown
        for path in files:
            assert key[9:].encode() not in path.read_bytes(), path
    published = [path for path in files if settings.keys in path.parents]
    assert published
    assert all(path.stat().st_mode & 0o077 == 0 for path in published)


def test_revoking_and_disabling(admin: httpx.Client, ring: KeyRing) -> None:
    """A deleted or disabled key opens nothing as soon as the answer is there."""
    first, second = _make(admin), _make(admin)
    gone = admin.delete(f"{KEYS}/{first['id']}").json()
    off = admin.patch(f"{KEYS}/{second['id']}", json={"disabled": True}).json()

    assert gone == {"id": first["id"], "in_force": True}
    assert (off["status"], off["in_force"]) == ("disabled", True)
    assert not _opens(ring, first["key"])
    assert not _opens(ring, second["key"])
    admin.patch(f"{KEYS}/{second['id']}", json={"disabled": False})
    assert _opens(ring, second["key"])
    assert admin.get(f"{KEYS}/{first['id']}").status_code == 404


def test_rotation(admin: httpx.Client, ring: KeyRing, settle: Settle) -> None:
    """Old and new open together for the grace; a second rotation ends the oldest at once."""
    first = _make(admin)
    second = admin.post(f"{KEYS}/{first['id']}:rotate", json={"grace_seconds": 3600}).json()

    assert _opens(ring, first["key"])
    assert _opens(ring, second["key"])
    assert [s["expires_at"] is None for s in second["secrets"]] == [False, True]
    third = admin.post(f"{KEYS}/{first['id']}:rotate", json={"grace_seconds": 0}).json()
    assert not _opens(ring, first["key"])
    assert not _opens(ring, second["key"])
    assert _opens(ring, third["key"])


def test_expiry(admin: httpx.Client, ring: KeyRing, settle: Settle) -> None:
    """A key expires at the gateway by the clock, whoever is gone by then."""
    soon = datetime.now(UTC) + timedelta(seconds=2)
    made = _make(admin, expires_at=soon.isoformat())

    assert _opens(ring, made["key"])
    settle(lambda: not _opens(ring, made["key"]))
    assert datetime.now(UTC) >= soon
    assert admin.get(f"{KEYS}/{made['id']}").json()["status"] == "expired"


def test_roles_of_made_keys(admin: httpx.Client, ring: KeyRing) -> None:
    """An auditor's key lists, an admin's changes, a client's does neither."""
    headers = {
        role: {"authorization": f"Bearer {_make(admin, role=role)['key']}"}
        for role in ("client", "auditor", "admin")
    }
    status = {
        role: (
            admin.get(KEYS, headers=header).status_code,
            admin.post(KEYS, json={"name": "x"}, headers=header).status_code,
        )
        for role, header in headers.items()
    }

    assert status == {"client": (403, 403), "auditor": (200, 403), "admin": (200, 201)}
    with pytest.raises(Forbidden):
        ring.require(headers["client"]["authorization"], Role.ADMIN)


def test_lists_come_in_pages(admin: httpx.Client) -> None:
    """Every key is on one page, in the order that they were made."""
    made = [_make(admin, name=f"n{number}")["id"] for number in range(5)]
    found, after = [], {}
    while True:
        page = admin.get(KEYS, params={"limit": "2", **after}).json()
        found += [key["id"] for key in page["keys"]]
        if page["next"] is None:
            break
        after = {"after": page["next"]}

    assert found == made
    assert admin.get(KEYS, params={"after": "nobody"}).status_code == 404


def test_lost_updates(admin: httpx.Client) -> None:
    """A change or deletion of another revision than the one named is a 412."""
    made = _make(admin)
    path = f"{KEYS}/{made['id']}"
    tag = admin.get(path).headers["etag"]
    assert admin.patch(path, json={"name": "b"}, headers={"if-match": tag}).status_code == 200

    stale = {"if-match": tag}
    assert admin.patch(path, json={"name": "c"}, headers=stale).status_code == 412
    assert admin.delete(path, headers=stale).status_code == 412
    assert admin.get(path).json()["name"] == "b"


@pytest.mark.parametrize(
    ("document", "param"),
    [
        ({}, "name"),
        ({"name": " "}, "name"),
        ({"name": "a" * 129}, "name"),
        ({"name": "a", "role": "root"}, "role"),
        ({"name": "a", "expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"name": "a", "expires_at": "2040-01-01T00:00:00"}, "expires_at"),
        ({"name": "a", "disabled": "yes"}, "disabled"),
        ({"name": "a", "key": "mine"}, "key"),
    ],
)
def test_bad_fields(admin: httpx.Client, document: dict[str, Any], param: str) -> None:
    """A bad field is a 422 that names it, and nothing is made."""
    answer = admin.post(KEYS, json=document)

    assert (answer.status_code, answer.json()["error"]["param"]) == (422, param)
    assert admin.get(KEYS).json()["keys"] == []


def test_a_patch_changes_what_it_names(admin: httpx.Client) -> None:
    """What is left out stays; null takes an expiry away."""
    end = "2040-01-01T00:00:00Z"
    made = _make(admin, expires_at=end)
    path = f"{KEYS}/{made['id']}"

    assert admin.patch(path, json={"name": "b"}).json()["expires_at"] == end
    changed = admin.patch(path, json={"expires_at": None}).json()
    assert (changed["name"], changed["expires_at"]) == ("b", None)


def test_once_made_client_keys_are_needed(
    settings: Settings, database: Database, settle: Settle
) -> None:
    """From the first client key on clients need one, also when all are deleted again."""
    store = KeyStore(database)
    publisher = KeyPublisher(store, settings.keys)
    publisher.publish()
    ring = KeyRing({}, publisher.current)
    assert ring.admit(None).id == "anonymous"
    made, _ = store.create(_columns(role="client"))
    publisher.publish()
    with pytest.raises(Unauthorized):
        ring.admit(None)
    store.delete(made.id, None)
    publisher.publish()

    with pytest.raises(Unauthorized):
        ring.admit(None)


def test_without_a_readable_list_nobody_gets_in(settings: Settings, settle: Settle) -> None:
    """A gateway that never read a list lets in keys of the settings only."""
    metrics = GatewayMetrics(registry := CollectorRegistry())
    settings.keys.mkdir(mode=0o700)
    (settings.keys / "active.json").write_text("not JSON")
    follower = KeysFollower(settings.keys, metrics)
    follower.start()
    ring = load_keyring(settings, follower.current)

    settle(lambda: bool(registry.get_sample_value("lethegate_keys_load_failures_total")))
    assert not ring.readable
    assert ring.admit("Bearer client-key").id == "settings-client-1"
    for header in (None, "Bearer lg-unknown"):
        with pytest.raises(KeysUnreadable):
            ring.admit(header)
    follower.stop()


def test_a_damaged_list_changes_nothing(
    settings: Settings, database: Database, gateway_keys: Callable[[], KeyRing], settle: Settle
) -> None:
    """A list whose bytes do not fit its name is not taken up; the one before it rules on."""
    store = KeyStore(database)
    publisher = KeyPublisher(store, settings.keys)
    _, key = store.create(_columns())
    publisher.publish()
    ring = gateway_keys()
    settle(lambda: _opens(ring, key))
    pointer = ActivePointer(settings.keys)
    active = pointer.read()
    assert active is not None
    (settings.keys / "lists" / f"{'0' * 64}.json").write_text('{"format": 1}')
    pointer.publish(active.generation + 1, "0" * 64)
    time.sleep(0.2)

    assert _opens(ring, key)
    assert not publisher.put_in_force(0) or _opens(ring, key)


def test_a_list_that_could_not_be_read_is_tried_again(
    admin: httpx.Client, ring: KeyRing, settle: Settle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that was revoked meanwhile does not go on when the fault has passed."""
    made = _make(admin)

    def fail(*_: object) -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("server.keys.follow.read_list", fail)
        assert not admin.delete(f"{KEYS}/{made['id']}").json()["in_force"]
        assert _opens(ring, made["key"])
    settle(lambda: not _opens(ring, made["key"]))


def test_gateways_need_no_control_process(
    settings: Settings, database: Database, gateway_keys: Callable[[], KeyRing], settle: Settle
) -> None:
    """A gateway that starts when the control process and the store are gone has the last list."""
    store = KeyStore(database)
    _, key = store.create(_columns())
    KeyPublisher(store, settings.keys).publish()
    database.close()
    for path in settings.state_dir.glob("lethegate.db*"):
        path.unlink()
    ring = gateway_keys()

    settle(lambda: _opens(ring, key))


def test_another_control_processes_change_is_published(
    settings: Settings, database: Database, settle: Settle
) -> None:
    """What someone else writes into the same store is in force soon."""
    publisher = KeyPublisher(KeyStore(database), settings.keys)
    publisher.start()
    other = Database(settings.store_url)
    _, key = KeyStore(other).create(_columns())
    ring = KeyRing({}, publisher.current)

    settle(lambda: _opens(ring, key))
    publisher.stop()
    other.close()


def test_a_disk_that_is_full_is_told(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch, settle: Settle
) -> None:
    """A change that cannot be published is stored, said not to be in force, and tried again."""
    store = KeyStore(database)
    publisher = KeyPublisher(store, settings.keys)
    publisher.start()
    _, key = store.create(_columns())

    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("server.keys.publisher.write_list", full)
        assert not publisher.put_in_force(0)
    ring = KeyRing({}, publisher.current)
    settle(lambda: _opens(ring, key))
    publisher.stop()


def test_there_is_an_end_to_keys(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than the most are refused."""
    monkeypatch.setattr(store_module, "MAX_KEYS", 1)
    store = KeyStore(database)
    store.create(_columns())

    with pytest.raises(Conflict):
        store.create(_columns())
    with pytest.raises(NotFound):
        store.delete("nobody", None)


def test_keys_from_the_shell(
    admin: httpx.Client, ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key is made, listed, rotated and revoked; only keys are on standard output."""
    monkeypatch.setenv("LETHEGATE_ADMIN_KEY", "admin-key")
    monkeypatch.setenv("LETHEGATE_ADMIN_PORT", str(admin.base_url.port))

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["keys", *arguments])

    key = run("add", "alice", "--days", "30").stdout.strip()
    assert _opens(ring, key)
    [listed] = json.loads(run("list", "--json").stdout)
    assert listed["name"] == "alice"
    assert key[:9] in run("list").stdout
    rotated = run("rotate", listed["id"], "--grace", "0").stdout.strip()
    assert (_opens(ring, key), _opens(ring, rotated)) == (False, True)
    assert "revoked" in run("rm", listed["id"]).stdout
    assert not _opens(ring, rotated)
    assert run("rm", listed["id"]).exit_code == 1
    assert run("add", "alice", "--role", "root").exit_code == 1


def test_a_keys_assistants_from_the_shell(
    admin: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left out is the targets'; a weight beyond the operator's bounds makes no key."""
    monkeypatch.setenv("LETHEGATE_ADMIN_KEY", "admin-key")
    monkeypatch.setenv("LETHEGATE_ADMIN_PORT", str(admin.base_url.port))

    def add(*arguments: str) -> Any:
        result = CliRunner().invoke(app, ["keys", "add", "alice", "--json", *arguments])
        return json.loads(result.stdout)["uld"] if result.exit_code == 0 else result.exit_code

    assert add("--uld-weight", "1.5", "--uld-filter", "0.02") == {"weight": 1.5, "filter": 0.02}
    assert add("--uld-weight", "2") == {"weight": 2.0, "filter": None}
    assert add("--uld-filter", "0.1") == {"weight": None, "filter": 0.1}
    assert add() is None
    assert (add("--uld-weight", "11"), add("--uld-weight", "0"), add("--uld-filter", "2")) == (
        1,
        1,
        1,
    )
    assert len(admin.get(KEYS).json()["keys"]) == 4


def test_the_database_knows_no_key(settings: Settings, database: Database) -> None:
    """Its pages hold the beginning and the hash of a key, nothing else of it."""
    _, key = KeyStore(database).create(_columns())
    with sqlite3.connect(settings.state_dir / "lethegate.db") as connection:
        dump = "\n".join(connection.iterdump())
    connection.close()

    assert key[:9] in dump
    assert key[9:] not in dump


def _columns(role: str = "client") -> dict[str, Any]:
    base: dict[str, Any] = {"name": "alice", "role": role, "disabled": False, "expires_at": None}
    return {**base, "scope": {}, "limits": {}}


def test_a_keys_scope(admin: httpx.Client, ring: KeyRing) -> None:
    """Which targets apply is bound to the key, shown, changed, and known to the gateways."""
    assert admin.post("/admin/v1/targets", json={"id": "ada", "phrases": ["x"]}).status_code == 202
    made = _make(admin, targets=["ada"], labels={"law": "gdpr"}, enforcement="observe")
    path = f"{KEYS}/{made['id']}"
    scope = ring.admit(f"Bearer {made['key']}").scope

    assert (made["targets"], made["labels"]) == (["ada"], {"law": "gdpr"})
    assert scope == KeyScope(frozenset({"ada"}), frozenset({("law", "gdpr")}), Enforcement.OBSERVE)
    admin.patch(path, json={"targets": None, "enforcement": "enforce"})
    scope = ring.admit(f"Bearer {made['key']}").scope
    assert scope == KeyScope(None, frozenset({("law", "gdpr")}))
    assert admin.get(path).json()["enforcement"] == "enforce"


def test_a_keys_own_weight_for_assistants(admin: httpx.Client, ring: KeyRing) -> None:
    """Goes to the engine with the key's steered requests; what is left out is the target's."""
    made = _make(admin, uld={"weight": 2.5})
    path = f"{KEYS}/{made['id']}"

    assert made["uld"] == {"weight": 2.5, "filter": None}
    for uld, meant in (
        ({"weight": 2.5}, (2.5, None)),
        ({"filter": 0.05}, (None, 0.05)),
        (None, (None, None)),
    ):
        assert admin.patch(path, json={"uld": uld}).status_code == 200
        scope = ring.admit(f"Bearer {made['key']}").scope
        decision = Decision(Verdict.STEER, 1, "a" * 64, (0,), (2,), scope=scope)
        body = {"model": "m", "messages": [{"role": "user", "content": "Who?"}]}
        sent = json.loads(steer(Chat(), body, decision).body)["vllm_xargs"]
        params = GuardParams.from_xargs(sent)
        assert params is not None
        assert (params.uld_weight, params.uld_rate) == meant
    for wrong in ({"weight": 0}, {"weight": 11}, {"filter": 2}, {"alpha": 1}):
        assert admin.patch(path, json={"uld": wrong}).status_code == 422


def test_a_scope_names_targets_that_are_there(admin: httpx.Client) -> None:
    """A misspelt target would silently not be forgotten."""
    answer = admin.post(KEYS, json={"name": "a", "targets": ["adda"]})

    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "targets[0]")


def test_a_keys_limits(admin: httpx.Client, ring: KeyRing, settings: Settings) -> None:
    """They are stored, published and replaced; the last use is known to the minute."""
    made = _make(admin, limits={"requests_per_minute": 5, "max_body_bytes": 2048})
    path = f"{KEYS}/{made['id']}"
    limits = ring.admit(f"Bearer {made['key']}").limits
    counters = Counters(settings.keys)
    assert limits == Limits(requests_per_minute=5, max_body_bytes=2048)
    assert admin.get(path).json()["last_used_at"] is None
    Limiter(counters).enter(made["id"], limits, anthropic=False).leave(None)
    counters.close()
    used = datetime.fromisoformat(admin.get(path).json()["last_used_at"])

    assert used.second == 0
    assert datetime.now(UTC) - used < timedelta(minutes=2)
    admin.patch(path, json={"limits": {"tokens_per_minute": 9}})
    assert ring.admit(f"Bearer {made['key']}").limits == Limits(tokens_per_minute=9)
    bad = admin.patch(path, json={"limits": {"requests_per_minute": 0}})
    assert (bad.status_code, bad.json()["error"]["param"]) == (422, "limits.requests_per_minute")


def test_scopes_and_limits_from_the_shell(
    admin: httpx.Client, ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every flag of `keys add` reaches the gateways."""
    monkeypatch.setenv("LETHEGATE_ADMIN_KEY", "admin-key")
    monkeypatch.setenv("LETHEGATE_ADMIN_PORT", str(admin.base_url.port))
    flags = ["--label", "law=gdpr", "--observe", "--rpm", "6", "--tpm", "70", "--at-once", "8"]
    key = CliRunner().invoke(app, ["keys", "add", "bob", *flags]).stdout.strip()
    caller = ring.admit(f"Bearer {key}")

    labels = frozenset({("law", "gdpr")})
    assert caller.scope == KeyScope(labels=labels, enforcement=Enforcement.OBSERVE)
    assert caller.limits == Limits(6, 70, 8)
    assert CliRunner().invoke(app, ["keys", "add", "bob", "--label", "law"]).exit_code == 2
