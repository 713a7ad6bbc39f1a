"""Who is calling: bearer keys and what they allow.

There are keys of the settings and keys that an operator made (`server.keys`). Only hashes stay in
memory. A key is looked up by its hash, so known, unknown, expired and disabled ones cost the same
work: one SHA-256 and two look-ups. The generated admin key is the one secret on disk, owner-only.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Protocol

from guard.key_scope import ALL_TARGETS, KeyScope
from server.errors import Forbidden, KeysUnreadable, StartFault, Unauthorized
from server.keys.limits import NO_LIMITS, Limits
from server.keys.secret import key_digest, new_key
from server.settings import Settings, is_loopback


class Role(IntEnum):
    """What a key allows; a higher role includes the lower ones, but none includes NODE."""

    NODE = 0
    CLIENT = 1
    AUDITOR = 2
    ADMIN = 3


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose key it is, and what holds for it. `id` tells keys apart in records; it is no secret."""

    id: str
    role: Role
    scope: KeyScope = ALL_TARGETS
    limits: Limits = NO_LIMITS


# Clients of a loopback server that has no client keys.
ANONYMOUS = Caller("anonymous", Role.CLIENT)


class ListedKeys(Protocol):
    """The keys that an operator made, at one moment."""

    @property
    def required(self) -> bool:
        """Whether clients need a key."""

    def find(self, digest: str, now: float) -> Caller | None:
        """Who has the key of this digest, if it is good."""


class _NoKeys:
    required = False

    def find(self, digest: str, now: float) -> Caller | None:
        return None


class KeyRing:
    """The known keys: those of the settings, and those that `listed` gives at each request.

    While `listed` gives None the operator's keys cannot be read; then only those of the settings
    open anything.
    """

    def __init__(
        self,
        keys: dict[str, Role],
        listed: Callable[[], ListedKeys | None] = _NoKeys,
        *,
        clients_need_keys: bool = False,
    ) -> None:
        roles: dict[Role, int] = {}
        self._fixed: dict[str, Caller] = {}
        for key, role in keys.items():
            roles[role] = roles.get(role, 0) + 1
            name = f"settings-{role.name.lower()}-{roles[role]}"
            self._fixed[key_digest(key)] = Caller(name, role)
        self._listed = listed
        self._required = clients_need_keys or Role.CLIENT in roles

    def __repr__(self) -> str:
        return f"KeyRing({len(self._fixed)} keys of the settings)"

    @property
    def readable(self) -> bool:
        """Whether the operator's keys are known."""
        return self._listed() is not None

    def identify(self, authorization: str | None) -> Caller | None:
        """Whose key an `Authorization` header holds; None without a header or a good key."""
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        digest, listed = key_digest(key.strip()), self._listed()
        fixed = self._fixed.get(digest)
        made = None if listed is None else listed.find(digest, time.time())
        return fixed or made

    def require(self, authorization: str | None, role: Role) -> Caller:
        """The caller, if its role is at least `role`.

        Raises:
            KeysUnreadable: the key is none of the settings', and the others cannot be read.
            Unauthorized: no key, or an unknown one.
            Forbidden: a known key of a lower role.
        """
        caller = self.identify(authorization)
        if caller is None and not self.readable:
            raise KeysUnreadable()
        if caller is None:
            raise Unauthorized("Give a valid key as: Authorization: Bearer KEY")
        if caller.role < role:
            raise Forbidden(f"This needs a key with the role {role.name.lower()}.")
        return caller

    def require_exactly(self, authorization: str | None, role: Role) -> Caller:
        """The caller, if its role is `role`.

        Raises:
            KeysUnreadable, Unauthorized: as `require`.
            Forbidden: a known key of another role.
        """
        caller = self.require(authorization, Role.NODE)
        if caller.role is not role:
            raise Forbidden(f"This needs a key with the role {role.name.lower()}.")
        return caller

    def admit(self, authorization: str | None, role: Role = Role.CLIENT) -> Caller:
        """A client of the guarded endpoint: whose key it is, or anybody where none is needed.

        Raises:
            KeysUnreadable: the key is none of the settings', and the others cannot be read.
            Unauthorized: a key is needed, and there is none, or an unknown one.
            Forbidden: a key is needed, and it is one of a lower role than `role`.
        """
        listed = self._listed()
        if self._required or listed is None or listed.required:
            return self.require(authorization, role)
        return self.identify(authorization) or ANONYMOUS


def refuse_tenants(caller: Caller) -> None:
    """Refuse whoever may see a tenant's targets only.

    Raises:
        Forbidden: the key is limited to a tenant.
    """
    if caller.scope.tenant is not None:
        raise Forbidden("This needs a key that is not limited to a tenant.")


def load_keyring(settings: Settings, listed: Callable[[], ListedKeys | None] = _NoKeys) -> KeyRing:
    """All keys of the settings beside `listed`; makes the admin key at the first start.

    Raises:
        StartFault: the admin key's file cannot be written or read.
    """
    keys = {key.get_secret_value(): Role.CLIENT for key in settings.api_keys}
    keys |= {key.get_secret_value(): Role.NODE for key in settings.node_keys}
    keys |= {key.get_secret_value(): Role.AUDITOR for key in settings.auditor_keys}
    keys[admin_key(settings)] = Role.ADMIN
    return KeyRing(keys, listed, clients_need_keys=not is_loopback(settings.host))


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
            _write_new(file, new_key())
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
