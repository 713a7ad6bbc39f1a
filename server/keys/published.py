"""The published list of keys: what gateways follow.

An immutable JSON file named by its SHA-256, owner-only, with the pointer to the one in force beside
it; gateways acknowledge it as they do policy snapshots (`guard.follower`). It holds hashes of keys
and what each key may do, no key and no name.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guard.key_scope import KeyScope
from server.auth import Caller, Role
from server.errors import KeysUnreadable
from server.keys.limits import Limits
from server.keys.record import StoredKeys

FORMAT = 1
_KEPT = 4


@dataclass(frozen=True, slots=True)
class Listed:
    """One secret: whom it is, and until when (seconds since the epoch)."""

    caller: Caller
    expires_at: float | None
    disabled: bool

    def is_good(self, now: float) -> bool:
        """Whether it opens anything now."""
        return not self.disabled and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True, slots=True)
class KeyList:
    """All secrets by their SHA-256 in hex; `required`: clients need one."""

    required: bool
    secrets: Mapping[str, Listed]

    def find(self, digest: str, now: float) -> Caller | None:
        """Who has the key of this digest; None also if it has expired or is disabled."""
        # A hash table tells by its timing at most something of a digest's hash, and no digest can
        # be chosen without a key of 256 random bits.
        found = self.secrets.get(digest)
        return found.caller if found is not None and found.is_good(now) else None


def write_list(directory: Path, stored: StoredKeys) -> str:
    """Store the list durably and give its digest; the same keys are the same file."""
    content = json.dumps(_document(stored), sort_keys=True).encode()
    digest = hashlib.sha256(content).hexdigest()
    lists = directory / "lists"
    lists.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = lists / f".{digest}.draft"
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(lists / f"{digest}.json")
    handle = os.open(lists, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    return digest


def read_list(directory: Path, digest: str) -> KeyList:
    """A published list.

    Raises:
        KeysUnreadable: it is missing, damaged or of another format.
    """
    try:
        content = (directory / "lists" / f"{digest}.json").read_bytes()
    except OSError:
        raise KeysUnreadable("the list of keys is missing") from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise KeysUnreadable("the list of keys is damaged")
    document = json.loads(content)
    if document["format"] != FORMAT:
        raise KeysUnreadable("the list of keys has another format version")
    secrets = {digest: listed for key in document["keys"] for digest, listed in _listed(key)}
    return KeyList(document["required"], secrets)


def prune_lists(directory: Path, keep: str) -> None:
    """Delete all but the newest lists and `keep`."""
    files = sorted((directory / "lists").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    for path in files[:-_KEPT]:
        if path.stem != keep:
            path.unlink(missing_ok=True)


def _document(stored: StoredKeys) -> dict[str, Any]:
    keys = [
        {
            "id": key.id,
            "role": key.role.name.lower(),
            "disabled": key.disabled,
            "expires_at": key.expires_at,
            "scope": dict(key.scope),
            "limits": dict(key.limits),
            "secrets": {secret.digest: secret.expires_at for secret in key.secrets},
        }
        for key in stored.keys
    ]
    return {"format": FORMAT, "required": stored.required, "keys": keys}


def _listed(key: dict[str, Any]) -> Iterable[tuple[str, Listed]]:
    role, scope = Role[key["role"].upper()], KeyScope.of(key["scope"])
    caller = Caller(key["id"], role, scope, Limits.of(key["limits"]))
    for digest, until in key["secrets"].items():
        ends = [end for end in (key["expires_at"], until) if end is not None]
        yield digest, Listed(caller, min(ends, default=None), key["disabled"])
