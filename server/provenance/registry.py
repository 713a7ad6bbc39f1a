"""The published list of corpora: what gateways follow.

An immutable JSON file named by its SHA-256. The pointer in the same directory names the one in
force, and gateways acknowledge it, exactly as they do with policy snapshots (`guard.follower`). It
holds no document text; the indexes that it names do, in directories beside it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from detectors.targets import Enforcement, Scope
from guard.errors import CorporaUnusable
from server.provenance.schemas import Label

FORMAT = 1
_KEPT = 4


@dataclass(frozen=True, slots=True)
class CorpusEntry:
    """One corpus as gateways apply it.

    `directory` is that of its index and `index_generation` the least one that counts; `targets` are
    those whose answers a matched corpus judges, none meaning all; `threshold` is in nats per word.
    """

    id: str
    directory: str
    index_generation: int
    label: Label
    scope: Scope
    enforcement: Enforcement
    targets: tuple[str, ...]
    minimum: int
    max_frequency: int | None
    threshold: float


@dataclass(frozen=True, slots=True)
class Places:
    """Where everything of the corpora lies, under one owner-only directory."""

    root: Path

    @property
    def registries(self) -> Path:
        """The published lists."""
        return self.root / "registry"

    @property
    def uploads(self) -> Path:
        """Documents that wait for their job."""
        return self.root / "uploads"

    @property
    def audit(self) -> Path:
        """The record of ended answers."""
        return self.root / "audit"

    def index(self, directory: str) -> Path:
        """An index."""
        return self.root / "index" / directory


def write_registry(places: Places, entries: Sequence[CorpusEntry]) -> str:
    """Store a list durably and give its digest; the same list is the same file."""
    content = json.dumps(
        {"format": FORMAT, "corpora": [asdict(entry) for entry in entries]}, sort_keys=True
    ).encode()
    digest = hashlib.sha256(content).hexdigest()
    places.registries.mkdir(mode=0o700, parents=True, exist_ok=True)
    final = places.registries / f"{digest}.json"
    draft = places.registries / f".{digest}.draft"
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(final)
    handle = os.open(places.registries, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    return digest


def read_registry(places: Places, digest: str) -> tuple[CorpusEntry, ...]:
    """A published list.

    Raises:
        CorporaUnusable: it is missing, damaged or of another format.
    """
    try:
        content = (places.registries / f"{digest}.json").read_bytes()
    except OSError:
        raise CorporaUnusable("the list of corpora is missing") from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise CorporaUnusable("the list of corpora is damaged")
    document = json.loads(content)
    if document["format"] != FORMAT:
        raise CorporaUnusable("the list of corpora has another format version")
    return tuple(_entry(fields) for fields in document["corpora"])


def prune_registries(places: Places, keep: str) -> None:
    """Delete all but the newest lists and `keep`."""
    files = sorted(places.registries.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    for path in files[:-_KEPT]:
        if path.stem != keep:
            path.unlink(missing_ok=True)


def _entry(fields: dict[str, Any]) -> CorpusEntry:
    typed = {
        "label": Label(fields["label"]),
        "scope": Scope(fields["scope"]),
        "enforcement": Enforcement(fields["enforcement"]),
        "targets": tuple(fields["targets"]),
    }
    return CorpusEntry(**{**fields, **typed})
