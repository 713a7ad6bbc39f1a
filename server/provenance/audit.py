"""The record of answers that were ended for their provenance: a bounded ring of JSON lines.

Corpus and document ids, offsets, lengths, scores, the request's id and the generation; never text:
a request's id is the client's to choose, so what does not look like one is kept as a hash.
Gateways append, the control process reads. Two files at the most; when the newer is full it takes
the older one's place.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from server.file_lock import held

MAX_BYTES = 4 * 1024 * 1024
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{0,128}", re.ASCII)


class AuditLog:
    """The ring in a directory; safe to share between processes."""

    def __init__(self, directory: Path, max_bytes: int = MAX_BYTES) -> None:
        self._directory, self._max_bytes = directory, max_bytes
        self._new, self._old = directory / "blocks.jsonl", directory / "blocks.1.jsonl"

    def append(self, record: dict[str, Any]) -> None:
        """Add a record."""
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        with held(self._directory / "lock"):
            if self._new.exists() and self._new.stat().st_size + len(line) > self._max_bytes:
                self._new.replace(self._old)
            descriptor = os.open(self._new, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(line)

    def newest(self, after: str | None, limit: int) -> list[dict[str, Any]]:
        """Up to `limit` records, newest first, that are older than the record of id `after`."""
        found: list[dict[str, Any]] = []
        passed = after is None
        for record in self._backwards():
            if len(found) >= limit:
                break
            if passed:
                found.append(record)
            passed = passed or record["id"] == after
        return found

    def _backwards(self) -> Iterator[dict[str, Any]]:
        for path in (self._new, self._old):
            try:
                lines = path.read_bytes().splitlines()
            except FileNotFoundError:
                continue
            for line in reversed(lines):
                try:
                    yield json.loads(line)
                except ValueError:
                    # Cut off where a gateway was killed while it wrote.
                    continue


def recorded_id(request_id: str) -> str:
    """What is recorded of a request's id (a header's value, read as Latin-1).

    Itself, if it is at most 128 letters, digits, dots, underscores and hyphens; else `sha256:` and
    the first 16 hex digits of its bytes' hash, which nothing that is kept as it is looks like.
    """
    if _REQUEST_ID.fullmatch(request_id):
        return request_id
    digest = hashlib.sha256(request_id.encode("latin-1", "replace")).hexdigest()
    return f"sha256:{digest[:16]}"
