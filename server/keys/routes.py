"""`/admin/v1/keys`: who may call the guarded endpoint and this API."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from server.access import Admin, Auditor
from server.etags import tagged
from server.keys.counters import last_uses
from server.keys.publisher import KeyPublisher
from server.keys.schemas import (
    KeyChanged,
    KeyGone,
    KeyIn,
    KeyMade,
    KeyOut,
    KeyPage,
    KeyPatch,
    RotateIn,
)
from server.keys.store import KeyStore
from server.parameters import After, IfMatch, Limit, PathId

# Gateways look for a new list twenty times a second.
IN_FORCE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Keys:
    """What these handlers work on."""

    store: KeyStore
    publisher: KeyPublisher

    def put_in_force(self) -> bool:
        """Publish what was stored; whether every live gateway applies it."""
        return self.publisher.put_in_force(IN_FORCE_SECONDS)

    def last_uses(self, key_ids: Sequence[str]) -> dict[str, float]:
        """When keys were last used on this machine."""
        return last_uses(self.publisher.directory, key_ids)


def _keys(request: Request) -> Keys:
    keys: Keys = request.app.state.control.keys
    return keys


Here = Annotated[Keys, Depends(_keys)]

keys_router = APIRouter(tags=["keys"])


@keys_router.post("/keys", status_code=201, responses=tagged(201))
def create_key(key: KeyIn, here: Here, role: Admin, response: Response) -> KeyMade:
    """Make a key; the answer is the only place where it is ever shown."""
    here.store.check_targets(key.targets)
    record, secret = here.store.create(key.columns())
    _hide(response, record.etag)
    response.headers["location"] = f"/admin/v1/keys/{record.id}"
    made: KeyMade = KeyMade.of(record, key=secret, in_force=here.put_in_force())
    return made


@keys_router.get("/keys")
def list_keys(
    here: Here,
    role: Auditor,
    limit: Limit = 100,
    after: After = None,
) -> KeyPage:
    """List keys, oldest first, each by the first characters of its secrets."""
    found = here.store.page(after, limit + 1)
    used = here.last_uses([key.id for key in found])
    page = [KeyOut.of(key, used.get(key.id)) for key in found[:limit]]
    return KeyPage(keys=page, next=page[-1].id if len(found) > limit else None)


@keys_router.get("/keys/{key_id:id}", responses=tagged())
def get_key(key_id: PathId, here: Here, role: Auditor, response: Response) -> KeyOut:
    """One key."""
    record = here.store.key(key_id)
    response.headers["etag"] = record.etag
    found: KeyOut = KeyOut.of(record, here.last_uses([key_id]).get(key_id))
    return found


@keys_router.patch("/keys/{key_id:id}", responses=tagged())
def change_key(
    key_id: PathId,
    patch: KeyPatch,
    here: Here,
    role: Admin,
    response: Response,
    if_match: IfMatch = None,
) -> KeyChanged:
    """Change a key; disabling takes effect like deleting and can be taken back."""
    here.store.check_targets(patch.targets)
    record = here.store.change(key_id, patch.columns, if_match)
    response.headers["etag"] = record.etag
    changed: KeyChanged = KeyChanged.of(record, in_force=here.put_in_force())
    return changed


@keys_router.delete("/keys/{key_id:id}")
def delete_key(key_id: PathId, here: Here, role: Admin, if_match: IfMatch = None) -> KeyGone:
    """Revoke a key for good."""
    here.store.delete(key_id, if_match)
    return KeyGone(id=key_id, in_force=here.put_in_force())


@keys_router.post("/keys/{key_id:id}:rotate", responses=tagged())
def rotate_key(
    key_id: PathId,
    rotation: RotateIn,
    here: Here,
    role: Admin,
    response: Response,
    if_match: IfMatch = None,
) -> KeyMade:
    """Give a key a second secret; the first goes on for `grace_seconds`."""
    record, secret = here.store.rotate(key_id, rotation.grace_seconds, if_match)
    _hide(response, record.etag)
    made: KeyMade = KeyMade.of(record, key=secret, in_force=here.put_in_force())
    return made


def _hide(response: Response, etag: str) -> None:
    response.headers["cache-control"] = "no-store"
    response.headers["etag"] = etag
