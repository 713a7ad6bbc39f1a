"""The documents of forget targets, in indexes beside the operator's corpora.

A target with documents is checked without further ado. Targets that share their limits share an
index, so that there are few however many targets there are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from detectors.targets import Enforcement, ForgetTarget, Scope
from server.errors import CorpusDamaged, CorpusFault, PolicyNotAcknowledged
from server.log import get_logger
from server.provenance.library import Library
from server.provenance.registry import Places
from server.provenance.schemas import DEFAULT_MATCH
from tracing.document import Document
from tracing.errors import TracingError
from tracing.index import Index

TARGET, DIGEST, ITEM = "target", "sha256", "item"

log = get_logger("corpora")


@dataclass(frozen=True, slots=True)
class TargetGroup:
    """Targets whose documents are held against answers in the same way."""

    minimum: int
    enforcement: Enforcement
    scope: Scope

    @property
    def directory(self) -> str:
        """Its index; no corpus of an operator can have an id that begins like this."""
        return f"@targets-{self.minimum}-{self.enforcement.value}-{self.scope.value}"

    @classmethod
    def of(cls, target: ForgetTarget) -> TargetGroup:
        """The group of a target."""
        return cls(target.minimum_match or DEFAULT_MATCH, target.enforcement, target.scope)

    @classmethod
    def on_disk(cls, places: Places) -> list[TargetGroup]:
        """Every group that has an index."""
        return [_parse(path) for path in sorted((places.root / "index").glob("@targets-*-*-*"))]


def sync_documents(library: Library, places: Places, targets: Iterable[ForgetTarget]) -> bool:
    """Make the indexes hold exactly these targets' documents; whether anything changed.

    What an index holds is read from the index itself, so this can be cut short at any moment and
    done again. Texts stay in the store with their target; the index keeps words only, and what
    leaves it is erased from disk.

    Raises:
        CorpusDamaged: an index cannot be read.
    """
    wanted: dict[TargetGroup, dict[tuple[str, ...], Document]] = {}
    for target in targets:
        if target.documents:
            wanted.setdefault(TargetGroup.of(target), {}).update(_keyed(target))
    changed = False
    for group in {*wanted, *TargetGroup.on_disk(places)}:
        try:
            index = library.index(group.directory, group.minimum, keep_text=False)
            changed |= _sync(index, wanted.get(group, {}))
        except TracingError:
            raise CorpusDamaged("the index of the targets' documents cannot be read") from None
    return changed


def as_policy_fault(fault: CorpusFault) -> PolicyNotAcknowledged:
    """How the policy's job tells that the documents are not in force."""
    return PolicyNotAcknowledged(f"documents: {fault}")


def _sync(index: Index, wanted: dict[tuple[str, ...], Document]) -> bool:
    present = {}
    for number in index.view.live_ids():
        metadata = index.view.document(number).metadata
        present[metadata[TARGET], metadata[DIGEST], metadata[ITEM]] = number
    gone = [number for key, number in present.items() if key not in wanted]
    fresh = [document for key, document in wanted.items() if key not in present]
    if fresh:
        index.add(fresh)
    if gone:
        index.withdraw(gone, erase=True)
    return bool(gone or fresh)


def _keyed(target: ForgetTarget) -> Iterator[tuple[tuple[str, ...], Document]]:
    for item, document in enumerate(target.documents):
        digest = hashlib.sha256(document.text.encode()).hexdigest()
        metadata = {TARGET: target.id, DIGEST: digest, ITEM: str(item)}
        yield (target.id, digest, str(item)), replace(document, metadata=metadata)


def _parse(path: Path) -> TargetGroup:
    _, minimum, enforcement, scope = path.name.split("-")
    return TargetGroup(int(minimum), Enforcement(enforcement), Scope(scope))
