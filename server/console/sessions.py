"""Who is logged in: sessions in memory, each opened by a random token that only the browser has.

A session keeps no key that could be read without its token: it is kept under the token's hash, and
the key is sealed with another one. Sessions end with the process.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from server.errors import Overloaded

IDLE_SECONDS = 30 * 60
LONGEST_SECONDS = 8 * 3600
MOST_OF_ONE_KEY = 16
MOST = 256


@dataclass(frozen=True, slots=True)
class Session:
    """An open session. `csrf` is in every form of its pages; `authorization` is sent to the API."""

    token: str
    csrf: str
    authorization: str

    def __repr__(self) -> str:
        return "Session(...)"


@dataclass(frozen=True, slots=True)
class _Kept:
    owner: str
    sealed: bytes
    opened_at: float
    used_at: float


class Sessions:
    """All open sessions; for one thread. `clock` gives seconds that never go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: dict[bytes, _Kept] = {}

    def open(self, key: str, owner: str) -> str:
        """Begin a session for a key of the caller `owner`; gives its token.

        Of too many sessions of one caller the one that was used the longest ago ends.

        Raises:
            Overloaded: too many callers have a session.
        """
        self._forget_old()
        own = [name for name, kept in self._kept.items() if kept.owner == owner]
        if len(own) >= MOST_OF_ONE_KEY:
            del self._kept[min(own, key=lambda name: self._kept[name].used_at)]
        if len(self._kept) >= MOST:
            raise Overloaded("Too many sessions are open.", retry_after_seconds=60)
        token, now = secrets.token_urlsafe(32), self._clock()
        # No key of this cipher is ever used twice, so the nonce may be fixed.
        sealed = AESGCM(_hash("key", token)).encrypt(bytes(12), key.encode(), None)
        self._kept[_hash("name", token)] = _Kept(owner, sealed, now, now)
        return token

    def find(self, token: str) -> Session | None:
        """The session of a token, which counts as used; None if it has ended."""
        self._forget_old()
        name = _hash("name", token)
        kept = self._kept.get(name)
        if kept is None:
            return None
        self._kept[name] = replace(kept, used_at=self._clock())
        key = AESGCM(_hash("key", token)).decrypt(bytes(12), kept.sealed, None).decode()
        return Session(token, _hash("csrf", token).hex(), f"Bearer {key}")

    def close(self, token: str) -> None:
        """End a session."""
        self._kept.pop(_hash("name", token), None)

    def _forget_old(self) -> None:
        now = self._clock()
        self._kept = {
            name: kept
            for name, kept in self._kept.items()
            if now - kept.used_at < IDLE_SECONDS and now - kept.opened_at < LONGEST_SECONDS
        }


def _hash(use: str, token: str) -> bytes:
    """A digest of a token for one use, from which no other can be made."""
    return hashlib.sha256(f"{use}:{token}".encode("utf-8", "surrogateescape")).digest()
