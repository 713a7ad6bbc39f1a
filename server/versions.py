"""The revisions of a target: what changed between two, and what a merge patch makes of one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ValidationError

from server.errors import InvalidField
from server.explain import explained
from server.schemas import TargetIn


class VersionOut(BaseModel):
    """A kept revision, without its text; `created_at` is null for those of an older Lethegate."""

    revision: int
    active: bool
    newest: bool
    created_at: datetime | None


class VersionList(BaseModel):
    """The kept revisions of a target, newest first."""

    target_id: str
    versions: list[VersionOut]


class VersionDocument(BaseModel):
    """A revision as it was registered."""

    target_id: str
    revision: int
    target: dict[str, Any]


class FieldChange(BaseModel):
    """How a field differs: entries of a list that came and went, or its two values."""

    field: str
    added: list[Any] | None = None
    removed: list[Any] | None = None
    before: Any = None
    after: Any = None


class VersionDiff(BaseModel):
    """What changed from one revision to another."""

    target_id: str
    from_revision: int
    to_revision: int
    changes: list[FieldChange]


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[FieldChange]:
    """The fields in which two documents differ, in order of their names."""
    found = []
    for field in sorted({*before, *after}):
        old, new = before.get(field), after.get(field)
        if old == new:
            continue
        if isinstance(old, list) and isinstance(new, list):
            found.append(FieldChange(field=field, added=_less(new, old), removed=_less(old, new)))
        else:
            found.append(FieldChange(field=field, before=old, after=new))
    return found


def patched(document: Mapping[str, Any], patch: Mapping[str, Any]) -> TargetIn:
    """A target's document with a JSON merge patch (RFC 7396): null takes a field away.

    Raises:
        InvalidField: the result is no target, or another one.
    """
    merged = _merge(document, patch)
    if merged.get("id") != document["id"]:
        raise InvalidField("id: cannot be changed", param="id")
    try:
        return TargetIn.model_validate(merged)
    except ValidationError as error:
        raise explained(error) from None


def _merge(document: Any, patch: Any) -> Any:
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(document) if isinstance(document, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merge(merged.get(key), value)
    return merged


def _less(entries: list[Any], others: list[Any]) -> list[Any]:
    """The entries that are not among the others, each as often as it is missing there."""
    left: dict[str, int] = {}
    for other in others:
        key = json.dumps(other, sort_keys=True)
        left[key] = left.get(key, 0) + 1
    missing = []
    for entry in entries:
        key = json.dumps(entry, sort_keys=True)
        if left.get(key, 0):
            left[key] -= 1
        else:
            missing.append(entry)
    return missing
