"""A gateway's keyring beside the admin API, and keys for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from server.auth import KeyRing, load_keyring
from server.keys.follow import KeysFollower
from server.metrics.gateway import GatewayMetrics
from server.settings import Settings

Settle = Callable[[Callable[[], bool]], None]
Opens = Callable[[KeyRing, str], bool]


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


@pytest.fixture
def opens() -> Opens:
    """Whether a key lets a client in."""
    return lambda ring, key: ring.identify(f"Bearer {key}") is not None


@pytest.fixture
def make(admin: httpx.Client) -> Callable[..., dict[str, Any]]:
    """A new key, made over the admin API."""

    def post(**fields: Any) -> dict[str, Any]:
        answer = admin.post("/admin/v1/keys", json={"name": "alice", **fields})
        assert answer.status_code == 201, answer.text
        assert answer.headers["cache-control"] == "no-store"
        made: dict[str, Any] = answer.json()
        assert made["in_force"]
        return made

    return post


@pytest.fixture
def columns() -> Callable[..., dict[str, Any]]:
    """What the store keeps of a new key."""

    def of(role: str = "client") -> dict[str, Any]:
        base = {"name": "alice", "role": role, "disabled": False, "expires_at": None}
        return {**base, "scope": {}, "limits": {}}

    return of
