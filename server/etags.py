"""ETags: a change may name the state that it was made from, and is refused if that is past."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from server.errors import PreconditionFailed

_HEADER = {
    "required": True,
    "description": "Names the state that is shown: give it as If-Match to change that one only.",
    "schema": {"type": "string"},
}


def tagged(status: int = 200) -> dict[int | str, dict[str, Any]]:
    """What a route's `responses` say where its answer of this status carries an ETag."""
    return {status: {"headers": {"ETag": _HEADER}}}


def require_match(etag: str, if_match: str | None, noun: str) -> None:
    """Check that `if_match` names a resource's state, any, or none at all.

    Raises:
        PreconditionFailed: it names another one.
    """
    wanted = [tag.strip() for tag in (if_match or "*").split(",")]
    if "*" not in wanted and etag not in wanted:
        raise PreconditionFailed(f"The {noun} has been changed: read it again.", param="If-Match")


def content_etag(created_at: float, content: Any) -> str:
    """Differs for every content, also of what took the id of something withdrawn.

    `created_at` is in seconds since the epoch, `content` what JSON can say.
    """
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return f'"{int(created_at * 1000):x}.{digest[:16]}"'
