"""A key as the store knows it, without its secret."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from server.auth import Role

if TYPE_CHECKING:  # gateways read published keys and need no database
    from sqlalchemy import Row


@dataclass(frozen=True, slots=True)
class SecretRecord:
    """One of the secrets that open a key; times are seconds since the epoch."""

    digest: str
    prefix: str
    created_at: float
    expires_at: float | None


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key; `secrets` oldest first, two while a rotation is under way."""

    id: str
    number: int
    revision: int
    name: str
    role: Role
    disabled: bool
    expires_at: float | None
    scope: Mapping[str, Any]
    limits: Mapping[str, Any]
    created_at: float
    updated_at: float
    secrets: tuple[SecretRecord, ...]

    @classmethod
    def of(cls, row: Row[Any], secrets: Sequence[SecretRecord]) -> KeyRecord:
        """From a row of `api_keys` and its secrets."""
        return cls(
            id=row.id,
            number=row.number,
            revision=row.revision,
            name=row.name,
            role=Role[row.role.upper()],
            disabled=bool(row.disabled),
            expires_at=row.expires_at,
            scope=row.scope,
            limits=row.limits,
            created_at=row.created_at,
            updated_at=row.updated_at,
            secrets=tuple(secrets),
        )

    @property
    def etag(self) -> str:
        """Differs for every revision."""
        return f'"{self.id}.{self.revision}"'


@dataclass(frozen=True, slots=True)
class StoredKeys:
    """All keys at one moment; `required`: a client key was made once, so clients need one."""

    revision: int
    required: bool
    keys: tuple[KeyRecord, ...]
