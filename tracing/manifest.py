"""The manifest of an index: which segments make it up, and which documents are withdrawn.

Written whole beside its name, flushed, then renamed: whoever reads it sees one state or the next.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tracing.container import create, flush, flush_directory
from tracing.errors import IndexCorrupt, IndexMissing

FORMAT = 1
MANIFEST = "MANIFEST"
_DRAFT = ".MANIFEST.draft"


@dataclass(frozen=True, slots=True)
class SegmentName:
    """A segment of the index: its file, the checksum of its header, its words."""

    name: str
    checksum: int
    words: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """One state of an index. `view` names what its symbols mean; `depth` is its gates'."""

    view: str
    depth: int
    generation: int = 0
    next_id: int = 0
    segments: tuple[SegmentName, ...] = ()
    withdrawn: tuple[int, ...] = ()

    def successor(
        self,
        *,
        next_id: int | None = None,
        segments: tuple[SegmentName, ...] | None = None,
        withdrawn: tuple[int, ...] | None = None,
    ) -> Manifest:
        """The next state; what is not given stays."""
        return replace(
            self,
            generation=self.generation + 1,
            next_id=self.next_id if next_id is None else next_id,
            segments=self.segments if segments is None else segments,
            withdrawn=self.withdrawn if withdrawn is None else withdrawn,
        )


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Make this the index's state, durably. Only the one writer may call this."""
    body = json.dumps({"format": FORMAT, **asdict(manifest)}).encode()
    draft = directory / _DRAFT
    draft.unlink(missing_ok=True)
    with create(draft) as file:
        file.write(b"%08x\n" % zlib.crc32(body) + body)
        flush(file)
    draft.replace(directory / MANIFEST)
    flush_directory(directory)


def read_manifest(directory: Path) -> Manifest:
    """The index's state.

    Raises:
        IndexMissing: there is none.
        IndexCorrupt: it is damaged or of another format.
    """
    try:
        head, _, body = (directory / MANIFEST).read_bytes().partition(b"\n")
    except OSError:
        raise IndexMissing("there is no provenance index in that directory") from None
    if head != b"%08x" % zlib.crc32(body):
        raise IndexCorrupt("the manifest of a provenance index is damaged")
    try:
        fields = json.loads(body)
        if fields.pop("format") != FORMAT:
            raise IndexCorrupt("a provenance index has another format version")
        segments = tuple(SegmentName(**segment) for segment in fields.pop("segments"))
        withdrawn = tuple(fields.pop("withdrawn"))
        manifest = Manifest(**fields, segments=segments, withdrawn=withdrawn)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise IndexCorrupt("the manifest of a provenance index cannot be read") from None
    if not _is_sound(manifest):
        raise IndexCorrupt("the manifest of a provenance index says what cannot be")
    return manifest


def _is_sound(manifest: Manifest) -> bool:
    """Whether every field is of its type; its checksum tells nothing of who wrote it."""
    numbers = [manifest.depth, manifest.generation, manifest.next_id, *manifest.withdrawn]
    numbers += [n for segment in manifest.segments for n in (segment.checksum, segment.words)]
    names = [manifest.view, *(segment.name for segment in manifest.segments)]
    return all(type(n) is int and n >= 0 for n in numbers) and all(
        isinstance(name, str) for name in names
    )
