"""The admin API's JSON about keys."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, model_validator
from pydantic.types import StringConstraints
from pydantic_core import PydanticCustomError

from detectors.targets import Enforcement
from guard.params import MAX_WEIGHT
from server.field_types import Pairs, TargetId, Tenant, Time, clean
from server.keys.record import KeyRecord
from server.records import utc

MAX_GRACE_SECONDS = 30 * 24 * 3600


def _worded(name: str) -> str:
    if not name.strip():
        raise PydanticCustomError("blank", "must not be blank")
    return clean(name)


def _ahead(time: datetime) -> datetime:
    if time <= datetime.now(UTC):
        raise PydanticCustomError("past", "must be in the future")
    return time


KeyName = Annotated[str, StringConstraints(min_length=1, max_length=128), AfterValidator(_worded)]
Expiry = Annotated[Time, AfterValidator(_ahead)]


class _Input(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class KeyUld(_Input):
    """A key's own weight and filter for what assistants recall, in place of the targets'.

    What is left out is the target's. The weight is held to the settings `assistant_min_weight` and
    `assistant_max_weight`.
    """

    weight: Annotated[float, Field(strict=True, gt=0, le=MAX_WEIGHT)] | None = None
    filter: Annotated[float, Field(strict=True, gt=0, le=1)] | None = None


class LimitsIn(_Input):
    """A key's limits; without one the server's setting holds."""

    requests_per_minute: Annotated[int, Field(strict=True, ge=1, le=10**9)] | None = None
    tokens_per_minute: Annotated[int, Field(strict=True, ge=1, le=10**12)] | None = None
    concurrent_requests: Annotated[int, Field(strict=True, ge=1, le=10_000)] | None = None
    max_body_bytes: Annotated[int, Field(strict=True, ge=1024, le=2**40)] | None = None


TargetIds = Annotated[list[TargetId], Field(max_length=1_000)]


class KeyIn(_Input):
    """A key to make.

    A target applies to its requests if it is among `targets` or carries all of `labels`; with
    neither all do. Of them a key of a `tenant` has the tenant's and those of none, and as an
    admin's or auditor's it sees and changes that tenant's targets only. With `enforcement` observe
    requests are judged and recorded, and nothing changes.
    """

    name: KeyName
    role: Literal["client", "auditor", "admin", "node"] = "client"
    disabled: StrictBool = False
    expires_at: Expiry | None = None
    targets: TargetIds | None = None
    labels: Pairs | None = None
    enforcement: Enforcement = Enforcement.ENFORCE
    tenant: Tenant | None = None
    uld: KeyUld | None = None
    limits: LimitsIn = LimitsIn()

    @model_validator(mode="after")
    def _is_for_one(self) -> Self:
        if self.role == "node" and self.tenant is not None:
            raise PydanticCustomError("tenant", "tenant: a node serves all of them")
        return self

    def columns(self) -> dict[str, Any]:
        """As the store's columns."""
        return {
            "name": self.name,
            "role": self.role,
            "disabled": self.disabled,
            "expires_at": None if self.expires_at is None else self.expires_at.timestamp(),
            "scope": {
                "targets": self.targets,
                "labels": self.labels,
                "enforcement": self.enforcement.value,
                "tenant": self.tenant,
                "uld": None if self.uld is None else self.uld.model_dump(),
            },
            "limits": self.limits.model_dump(),
        }


class KeyPatch(_Input):
    """What is to change of a key; what is left out stays, null takes away what may be missing.

    `limits` are replaced as a whole.
    """

    name: KeyName = ""
    disabled: StrictBool = False
    expires_at: Expiry | None = None
    targets: TargetIds | None = None
    labels: Pairs | None = None
    enforcement: Enforcement = Enforcement.ENFORCE
    uld: KeyUld | None = None
    limits: LimitsIn = LimitsIn()

    def columns(self, known: KeyRecord) -> dict[str, Any]:
        """The store's columns after the change of a known key."""
        given = self.model_dump(mode="json", include=self.model_fields_set)
        if self.expires_at is not None:
            given["expires_at"] = self.expires_at.timestamp()
        scope = {**known.scope, **{k: given.pop(k) for k in _SCOPE if k in given}}
        return {**given, "scope": scope}


_SCOPE = ("targets", "labels", "enforcement", "uld")


class RotateIn(_Input):
    """How long the secret before the new one goes on working."""

    grace_seconds: Annotated[int, Field(strict=True, ge=0, le=MAX_GRACE_SECONDS)] = 24 * 3600


class SecretOut(BaseModel):
    """One of a key's secrets, without the secret."""

    prefix: str
    created_at: datetime
    expires_at: datetime | None


class KeyOut(BaseModel):
    """A key without its secret; `secrets` oldest first, two while a rotation is under way.

    `last_used_at` is true to the minute, and for the machine of this control process.
    """

    id: str
    name: str
    role: str
    status: Literal["active", "disabled", "expired"]
    expires_at: datetime | None
    targets: list[str] | None
    labels: dict[str, str] | None
    enforcement: Enforcement
    tenant: str | None
    uld: KeyUld | None
    limits: LimitsIn
    last_used_at: datetime | None
    secrets: list[SecretOut]
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, record: KeyRecord, used_at: float | None = None, **more: Any) -> Any:
        """From the store; `used_at` in seconds since the epoch."""
        gone = record.expires_at is not None and record.expires_at <= datetime.now(UTC).timestamp()
        return cls(
            id=record.id,
            name=record.name,
            role=record.role.name.lower(),
            status="disabled" if record.disabled else "expired" if gone else "active",
            expires_at=_time(record.expires_at),
            targets=record.scope.get("targets"),
            labels=record.scope.get("labels"),
            enforcement=record.scope.get("enforcement", Enforcement.ENFORCE),
            tenant=record.scope.get("tenant"),
            uld=record.scope.get("uld"),
            limits=LimitsIn.model_validate(record.limits),
            last_used_at=_time(None if used_at is None else used_at // 60 * 60),
            secrets=[
                SecretOut(
                    prefix=secret.prefix,
                    created_at=utc(secret.created_at),
                    expires_at=_time(secret.expires_at),
                )
                for secret in record.secrets
            ],
            created_at=utc(record.created_at),
            updated_at=utc(record.updated_at),
            **more,
        )


class KeyChanged(KeyOut):
    """A changed key; `in_force`: every live gateway has acknowledged the change."""

    in_force: bool


class KeyMade(KeyChanged):
    """A new secret in clear: shown here, once, and kept nowhere."""

    key: str


class KeyGone(BaseModel):
    """A deleted key."""

    id: str
    in_force: bool


class KeyPage(BaseModel):
    """A page of keys, oldest first; `next` is the cursor for `after`."""

    keys: list[KeyOut]
    next: str | None


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else utc(seconds)
