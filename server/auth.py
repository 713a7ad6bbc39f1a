"""Who is calling: bearer keys and the roles they carry.

Keys are random and long, so one SHA-256 is hash enough; only hashes stay in memory, and every
comparison takes the same time. The generated admin key is the one secret on disk, owner-only.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from enum import IntEnum
from pathlib import Path

from server.errors import Forbidden, StartFault, Unauthorized
from server.settings import Settings

_KEY_PREFIX = "lg-"


class Role(IntEnum):
    """What a key allows; a higher role includes the lower ones."""

    CLIENT = 1
    AUDITOR = 2
    ADMIN = 3


class KeyRing:
    """The known keys, hashed, with their roles."""

    def __init__(self, keys: dict[str, Role]) -> None:
        self._roles = {_hash(key): role for key, role in keys.items()}

    def __repr__(self) -> str:
        return f"KeyRing({len(self._roles)} keys)"

    def role_of(self, authorization: str | None) -> Role | None:
        """The role of an `Authorization` header's key; None without a header or a known key."""
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        given = _hash(key.strip())
        found = None
        for known, role in self._roles.items():
            if hmac.compare_digest(known, given):
                found = role
        return found

    def require(self, authorization: str | None, role: Role) -> Role:
        """The caller's role, if it is at least `role`.

        Raises:
            Unauthorized: no key, or an unknown one.
            Forbidden: a known key of a lower role.
        """
        have = self.role_of(authorization)
        if have is None:
            raise Unauthorized("Give a valid key as: Authorization: Bearer KEY")
        if have < role:
            raise Forbidden(f"This needs a key with the role {role.name.lower()}.")
        return have

    @property
    def has_clients(self) -> bool:
        """Whether any client key is known; without one, loopback clients need none."""
        return Role.CLIENT in self._roles.values()


def load_keyring(settings: Settings) -> KeyRing:
    """All keys of the settings; makes the admin key at the first start if none is set.

    Raises:
        StartFault: the admin key's file cannot be written or read.
    """
    keys = {key.get_secret_value(): Role.CLIENT for key in settings.api_keys}
    keys |= {key.get_secret_value(): Role.AUDITOR for key in settings.auditor_keys}
    keys[admin_key(settings)] = Role.ADMIN
    return KeyRing(keys)


def admin_key(settings: Settings) -> str:
    """The admin key: the setting, else the content of `admin_key_file`, made when missing.

    Raises:
        StartFault: the file cannot be written or read, or is empty.
    """
    if settings.admin_key is not None:
        return settings.admin_key.get_secret_value()
    file = settings.admin_key_file
    try:
        settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not file.exists():
            _write_new(file, _KEY_PREFIX + secrets.token_urlsafe(32))
        key = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not ASCII"
        raise StartFault(f"cannot use the admin key file {file}: {reason}") from None
    if not key:
        raise StartFault(f"the admin key file {file} is empty: delete it, a new key will be made")
    return key


def _write_new(file: Path, key: str) -> None:
    """Write the file whole and owner-only; a process that was faster wins."""
    draft = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            stream.write(key + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        try:
            os.link(draft, file)
        except FileExistsError:
            return
    finally:
        draft.unlink()


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
