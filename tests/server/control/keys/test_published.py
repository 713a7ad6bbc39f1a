"""Keys from the store to the gateways: what is published, and what a fault of it does."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from guard.follower import ActivePointer
from server.auth import KeyRing, load_keyring
from server.database import Database
from server.errors import Conflict, KeysUnreadable, NotFound, Unauthorized
from server.keys import store as store_module
from server.keys.follow import KeysFollower
from server.keys.publisher import KeyPublisher
from server.keys.store import KeyStore
from server.metrics.gateway import GatewayMetrics
from server.settings import Settings

KEYS = "/admin/v1/keys"
Settle = Callable[[Callable[[], bool]], None]
Opens = Callable[[KeyRing, str], bool]
Make = Callable[..., dict[str, Any]]
Columns = Callable[..., dict[str, Any]]


def test_once_made_client_keys_are_needed(
    settings: Settings, database: Database, settle: Settle, columns: Columns
) -> None:
    """From the first client key on clients need one, also when all are deleted again."""
    store = KeyStore(database)
    publisher = KeyPublisher(store, settings.keys)
    publisher.publish()
    ring = KeyRing({}, publisher.current)
    assert ring.admit(None).id == "anonymous"
    made, _ = store.create(columns(role="client"))
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
    settings: Settings,
    database: Database,
    gateway_keys: Callable[[], KeyRing],
    settle: Settle,
    opens: Opens,
    columns: Columns,
) -> None:
    """A list whose bytes do not fit its name is not taken up; the one before it rules on."""
    store = KeyStore(database)
    publisher = KeyPublisher(store, settings.keys)
    _, key = store.create(columns())
    publisher.publish()
    ring = gateway_keys()
    settle(lambda: opens(ring, key))
    pointer = ActivePointer(settings.keys)
    active = pointer.read()
    assert active is not None
    (settings.keys / "lists" / f"{'0' * 64}.json").write_text('{"format": 1}')
    pointer.publish(active.generation + 1, "0" * 64)
    time.sleep(0.2)

    assert opens(ring, key)
    assert not publisher.put_in_force(0) or opens(ring, key)


def test_a_list_that_could_not_be_read_is_tried_again(
    admin: httpx.Client,
    ring: KeyRing,
    settle: Settle,
    monkeypatch: pytest.MonkeyPatch,
    opens: Opens,
    make: Make,
) -> None:
    """A key that was revoked meanwhile does not go on when the fault has passed."""
    made = make()

    def fail(*_: object) -> None:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("server.keys.follow.read_list", fail)
        patch.setattr("server.keys.routes.IN_FORCE_SECONDS", 0.5)
        assert not admin.delete(f"{KEYS}/{made['id']}").json()["in_force"]
        assert opens(ring, made["key"])
    settle(lambda: not opens(ring, made["key"]))


def test_gateways_need_no_control_process(
    settings: Settings,
    database: Database,
    gateway_keys: Callable[[], KeyRing],
    settle: Settle,
    opens: Opens,
    columns: Columns,
) -> None:
    """A gateway that starts when the control process and the store are gone has the last list."""
    store = KeyStore(database)
    _, key = store.create(columns())
    KeyPublisher(store, settings.keys).publish()
    database.close()
    for path in settings.state_dir.glob("lethegate.db*"):
        path.unlink()
    ring = gateway_keys()

    settle(lambda: opens(ring, key))


def test_another_control_processes_change_is_published(
    settings: Settings, database: Database, settle: Settle, opens: Opens, columns: Columns
) -> None:
    """What someone else writes into the same store is in force soon."""
    publisher = KeyPublisher(KeyStore(database), settings.keys)
    publisher.start()
    other = Database(settings.store_url)
    _, key = KeyStore(other).create(columns())
    ring = KeyRing({}, publisher.current)

    settle(lambda: opens(ring, key))
    publisher.stop()
    other.close()


def test_a_disk_that_is_full_is_told(
    settings: Settings,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    settle: Settle,
    opens: Opens,
    columns: Columns,
) -> None:
    """A change that cannot be published is stored, said not to be in force, and tried again."""
    store = KeyStore(database)
    publisher = KeyPublisher(store, settings.keys)
    publisher.start()
    _, key = store.create(columns())

    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("server.keys.publisher.write_list", full)
        assert not publisher.put_in_force(0)
    ring = KeyRing({}, publisher.current)
    settle(lambda: opens(ring, key))
    publisher.stop()


def test_there_is_an_end_to_keys(
    database: Database, monkeypatch: pytest.MonkeyPatch, columns: Columns
) -> None:
    """More than the most are refused."""
    monkeypatch.setattr(store_module, "MAX_KEYS", 1)
    store = KeyStore(database)
    store.create(columns())

    with pytest.raises(Conflict):
        store.create(columns())
    with pytest.raises(NotFound):
        store.delete("nobody", None)


def test_the_database_knows_no_key(
    settings: Settings, database: Database, columns: Columns
) -> None:
    """Its pages hold the beginning and the hash of a key, nothing else of it."""
    _, key = KeyStore(database).create(columns())
    with sqlite3.connect(settings.state_dir / "lethegate.db") as connection:
        dump = "\n".join(connection.iterdump())
    connection.close()

    assert key[:9] in dump
    assert key[9:] not in dump
