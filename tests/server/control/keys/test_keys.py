"""API keys over the admin API, beside a gateway that follows."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.auth import KeyRing, Role
from server.errors import Forbidden, Unauthorized
from server.settings import Settings

KEYS = "/admin/v1/keys"
Settle = Callable[[Callable[[], bool]], None]
Opens = Callable[[KeyRing, str], bool]
Make = Callable[..., dict[str, Any]]


def test_a_key_works_when_the_answer_is_there(
    admin: httpx.Client, ring: KeyRing, make: Make
) -> None:
    """A made key opens the gateway at once, as the client that it names."""
    made = make()
    caller = ring.admit(f"Bearer {made['key']}")

    assert (caller.id, caller.role) == (made["id"], Role.CLIENT)
    assert ring.admit("Bearer client-key").id == "settings-client-1"
    with pytest.raises(Unauthorized):
        ring.admit(f"Bearer {made['key'][:-1]}")


def test_a_key_is_shown_once_and_kept_as_a_hash(
    admin: httpx.Client,
    ring: KeyRing,
    settings: Settings,
    make: Make,
    files_in: Callable[[Path], dict[Path, tuple[int, bytes]]],
) -> None:
    """Neither lists nor any file of the state directory hold it."""
    made = make()
    rotated = admin.post(f"{KEYS}/{made['id']}:rotate", json={}).json()
    shown = admin.get(KEYS).text + admin.get(f"{KEYS}/{made['id']}").text
    files = files_in(settings.state_dir)

    for key in (made["key"], rotated["key"]):
        assert key[:9] in shown
        assert key[9:] not in shown
        for path, (_, content) in files.items():
            assert key[9:].encode() not in content, path
    published = [mode for path, (mode, _) in files.items() if settings.keys in path.parents]
    assert published
    assert all(mode & 0o077 == 0 for mode in published)


def test_revoking_and_disabling(
    admin: httpx.Client, ring: KeyRing, opens: Opens, make: Make
) -> None:
    """A deleted or disabled key opens nothing as soon as the answer is there."""
    first, second = make(), make()
    gone = admin.delete(f"{KEYS}/{first['id']}").json()
    off = admin.patch(f"{KEYS}/{second['id']}", json={"disabled": True}).json()

    assert gone == {"id": first["id"], "in_force": True}
    assert (off["status"], off["in_force"]) == ("disabled", True)
    assert not opens(ring, first["key"])
    assert not opens(ring, second["key"])
    admin.patch(f"{KEYS}/{second['id']}", json={"disabled": False})
    assert opens(ring, second["key"])
    assert admin.get(f"{KEYS}/{first['id']}").status_code == 404


def test_rotation(
    admin: httpx.Client, ring: KeyRing, settle: Settle, opens: Opens, make: Make
) -> None:
    """Old and new open together for the grace; a second rotation ends the oldest at once."""
    first = make()
    second = admin.post(f"{KEYS}/{first['id']}:rotate", json={"grace_seconds": 3600}).json()

    assert opens(ring, first["key"])
    assert opens(ring, second["key"])
    assert [s["expires_at"] is None for s in second["secrets"]] == [False, True]
    third = admin.post(f"{KEYS}/{first['id']}:rotate", json={"grace_seconds": 0}).json()
    assert not opens(ring, first["key"])
    assert not opens(ring, second["key"])
    assert opens(ring, third["key"])


def test_expiry(
    admin: httpx.Client, ring: KeyRing, settle: Settle, opens: Opens, make: Make
) -> None:
    """A key expires at the gateway by the clock, whoever is gone by then."""
    soon = datetime.now(UTC) + timedelta(seconds=3)
    made = make(expires_at=soon.isoformat())

    assert opens(ring, made["key"]) or datetime.now(UTC) >= soon
    settle(lambda: not opens(ring, made["key"]))
    assert datetime.now(UTC) >= soon
    assert admin.get(f"{KEYS}/{made['id']}").json()["status"] == "expired"


def test_roles_of_made_keys(admin: httpx.Client, ring: KeyRing, make: Make) -> None:
    """An auditor's key lists, an admin's changes, a client's does neither."""
    headers = {
        role: {"authorization": f"Bearer {make(role=role)['key']}"}
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


def test_lists_come_in_pages(admin: httpx.Client, make: Make) -> None:
    """Every key is on one page, in the order that they were made."""
    made = [make(name=f"n{number}")["id"] for number in range(5)]
    found, after = [], {}
    while True:
        page = admin.get(KEYS, params={"limit": "2", **after}).json()
        found += [key["id"] for key in page["keys"]]
        if page["next"] is None:
            break
        after = {"after": page["next"]}

    assert found == made
    assert admin.get(KEYS, params={"after": "nobody"}).status_code == 404


def test_lost_updates(admin: httpx.Client, make: Make) -> None:
    """A change or deletion of another revision than the one named is a 412."""
    made = make()
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


def test_a_patch_changes_what_it_names(admin: httpx.Client, make: Make) -> None:
    """What is left out stays; null takes an expiry away."""
    end = "2040-01-01T00:00:00Z"
    made = make(expires_at=end)
    path = f"{KEYS}/{made['id']}"

    assert admin.patch(path, json={"name": "b"}).json()["expires_at"] == end
    changed = admin.patch(path, json={"expires_at": None}).json()
    assert (changed["name"], changed["expires_at"]) == ("b", None)
