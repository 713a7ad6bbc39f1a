"""What is wrong with a field, as one sentence that does not repeat its value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from server.errors import InvalidField
from server.schemas import READ_ONLY, field_path

_PLAIN = {
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "dict_type": "must be an object",
    "string_type": "must be a string",
    "string_unicode": "must not hold half of a surrogate pair",
    "list_type": "must be a list",
    "bool_type": "must be true or false",
    "missing": "is required",
}


def explain(problem: Mapping[str, Any]) -> InvalidField:
    """A pydantic problem, located within the document that was given."""
    location = tuple(problem.get("loc", ()))
    path = field_path(location)
    kind = str(problem.get("type", ""))
    if kind == "no_evidence":
        path = "examples"
    if kind == "extra_forbidden":
        known = len(location) == 1 and location[0] in READ_ONLY
        reason = "is read-only" if known else "is not a field"
    else:
        reason = _PLAIN.get(kind) or str(problem.get("msg", "is not valid"))
    return InvalidField(f"{path}: {reason}", param=path or None)


def explained(error: ValidationError) -> InvalidField:
    """The first problem of a document."""
    return explain(error.errors(include_url=False, include_context=False, include_input=False)[0])
