"""Encryption at rest: columns that hold forget text, sealed with the operator's key.

Fernet tokens (AES-128-CBC with HMAC-SHA256, random IV; the specification is the `cryptography`
package's). A key file holds one key per line: the first seals, every one opens, which is how keys
are changed while the store is in use.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from sqlalchemy import Dialect, Text
from sqlalchemy.types import TypeDecorator

from server.errors import StartFault, StoreFault
from server.settings import Settings

# No JSON text begins like this.
_MARK = "sealed:"
_ATTRIBUTE = "lethegate_vault"


class Vault:
    """The operator's keys. Shows none of them."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        """The first key seals, all open; raises `ValueError` for one that is no Fernet key."""
        self._fernet = MultiFernet([Fernet(key) for key in keys])

    @classmethod
    def read(cls, file: Path) -> Vault:
        """The keys of a file.

        Raises:
            StartFault: it cannot be read or holds something else.
        """
        keys = read_keys(file)
        try:
            return cls(keys)
        except ValueError:
            raise StartFault(
                f"encryption_key_file {file} must hold a key of 32 bytes in URL-safe base64 per "
                "line, as `lethegate encryption new-key` writes it"
            ) from None

    def seal(self, text: str) -> str:
        """Encrypt with the first key."""
        return _MARK + self._fernet.encrypt(text.encode()).decode("ascii")

    def open(self, sealed: str) -> str:
        """Decrypt with whichever key fits.

        Raises:
            StoreFault: none does, or the text was changed.
        """
        try:
            return self._fernet.decrypt(sealed.removeprefix(_MARK)).decode()
        except InvalidToken:
            raise StoreFault("no key opens a sealed value") from None


class Sealed(TypeDecorator[Any]):
    """A JSON value as text: sealed where the engine has a vault (`give_vault`), else plain."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """JSON text, sealed; None is SQL's null."""
        if value is None:
            return None
        text = json.dumps(value)
        vault = _vault_on(dialect)
        return text if vault is None else vault.seal(text)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        """The value, opened if it is sealed.

        Raises:
            StoreFault: there is no key for it.
        """
        if value is None:
            return None
        if value.startswith(_MARK):
            vault = _vault_on(dialect)
            if vault is None:
                raise StoreFault("a value is sealed and there is no key")
            value = vault.open(value)
        return json.loads(value)


def give_vault(dialect: Dialect, vault: Vault | None) -> None:
    """Have an engine's sealed columns use a vault; its dialect is the engine's own."""
    setattr(dialect, _ATTRIBUTE, vault)


def vault_of(settings: Settings) -> Vault | None:
    """The vault that the settings ask for.

    Raises:
        StartFault: its key file cannot be used.
    """
    file = settings.encryption_key_file
    return None if file is None else Vault.read(file)


def read_keys(file: Path) -> list[bytes]:
    """The lines of a key file that are not empty.

    Raises:
        StartFault: there are none, or it cannot be read.
    """
    try:
        keys = file.read_bytes().split()
    except OSError as error:
        raise StartFault(f"cannot read encryption_key_file {file}: {error.strerror}") from None
    if not keys:
        raise StartFault(f"encryption_key_file {file} is empty")
    return keys


def add_key(file: Path) -> int:
    """Put a new key first in a key file, made if it is missing; gives how many keys it has then.

    Raises:
        StartFault: the file cannot be read or written.
    """
    keys = [Fernet.generate_key(), *(read_keys(file) if file.exists() else ())]
    draft = file.with_name(f".{file.name}.draft")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(b"\n".join(keys) + b"\n")
            handle.flush()
            os.fsync(handle.fileno())
        draft.replace(file)
    except OSError as error:
        raise StartFault(f"cannot write {file}: {error.strerror}") from None
    return len(keys)


def _vault_on(dialect: Dialect) -> Vault | None:
    found: Vault | None = getattr(dialect, _ATTRIBUTE, None)
    return found
