"""Records that are linked by hashes, so that a changed, missing or added one shows.

Each line is a JSON object with its `sequence`, the `hash` of the line before it as `prev`, and its
own `hash`: the SHA-256 of the line without it. Whoever can write the files can also write a whole
new chain; against that, keep a hash that `lethegate audit verify` has printed somewhere else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

START = "0" * 64


@dataclass(frozen=True, slots=True)
class Link:
    """The last record so far: its number, counted from 1, and its hash."""

    sequence: int = 0
    hash: str = START


def linked(fields: Mapping[str, Any], last: Link) -> tuple[bytes, Link]:
    """The line of the next record, with its end, and its link."""
    record = {**fields, "sequence": last.sequence + 1, "prev": last.hash}
    digest = _digest(record)
    line = json.dumps({**record, "hash": digest}, sort_keys=True, separators=(",", ":"))
    return line.encode() + b"\n", Link(last.sequence + 1, digest)


def link_of(line: bytes) -> tuple[dict[str, Any], Link] | None:
    """A line's record and link, if its hash is that of its content; else None."""
    try:
        record = json.loads(line)
        digest = record.pop("hash")
        link = Link(record["sequence"], digest)
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    return (record, link) if _digest(record) == digest else None


def _digest(record: Mapping[str, Any]) -> str:
    content = json.dumps(record, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(content).hexdigest()
