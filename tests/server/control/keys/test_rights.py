"""What is bound to a key: scope, weight for assistants, limits."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from detectors.targets import Enforcement
from guard.decision import Decision, Verdict
from guard.key_scope import KeyScope
from guard.params import GuardParams
from server.apis.chat import Chat
from server.auth import KeyRing
from server.keys.counters import Counters
from server.keys.limits import Limiter, Limits
from server.settings import Settings
from server.steering import steer

KEYS = "/admin/v1/keys"
Make = Callable[..., dict[str, Any]]


def test_a_keys_scope(admin: httpx.Client, ring: KeyRing, make: Make) -> None:
    """Which targets apply is bound to the key, shown, changed, and known to the gateways."""
    assert admin.post("/admin/v1/targets", json={"id": "ada", "phrases": ["x"]}).status_code == 202
    made = make(targets=["ada"], labels={"law": "gdpr"}, enforcement="observe")
    path = f"{KEYS}/{made['id']}"
    scope = ring.admit(f"Bearer {made['key']}").scope

    assert (made["targets"], made["labels"]) == (["ada"], {"law": "gdpr"})
    assert scope == KeyScope(frozenset({"ada"}), frozenset({("law", "gdpr")}), Enforcement.OBSERVE)
    admin.patch(path, json={"targets": None, "enforcement": "enforce"})
    scope = ring.admit(f"Bearer {made['key']}").scope
    assert scope == KeyScope(None, frozenset({("law", "gdpr")}))
    assert admin.get(path).json()["enforcement"] == "enforce"


def test_a_keys_own_weight_for_assistants(admin: httpx.Client, ring: KeyRing, make: Make) -> None:
    """Goes to the engine with the key's steered requests; what is left out is the target's."""
    made = make(uld={"weight": 2.5})
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


def test_a_keys_limits(admin: httpx.Client, ring: KeyRing, settings: Settings, make: Make) -> None:
    """They are stored, published and replaced; the last use is known to the minute."""
    made = make(limits={"requests_per_minute": 5, "max_body_bytes": 2048})
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
