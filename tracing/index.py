"""An index on disk: documents can be added, withdrawn and erased while others search it.

A state of it is an immutable `View`: some segments, each with what is withdrawn from it. Every
change is a new view, published by one assignment after its manifest is durable, so a reader keeps
the one it took for as long as it likes. One process writes; any number read.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tracing.building import Built, Encoder, Recipe
from tracing.container import flush_directory
from tracing.document import Document
from tracing.errors import IndexCorrupt, IndexLocked, IndexMismatch, IndexMissing, UnknownDocument
from tracing.manifest import MANIFEST, Manifest, read_manifest, write_manifest
from tracing.segment import Segment, open_segment
from tracing.tiers import due_for_merge, due_for_purge

_LOCK = "LOCK"


@dataclass(frozen=True, slots=True)
class View:
    """One state of an index, to search."""

    generation: int
    depth: int
    segments: tuple[Segment, ...]

    def find(self, document_id: int) -> tuple[Segment, int]:
        """The segment and row of a live document.

        Raises:
            UnknownDocument: there is none of that number.
        """
        for segment in self.segments:
            row = segment.row(document_id)
            if row >= 0 and document_id not in segment.withdrawn:
                return segment, row
        raise UnknownDocument(f"no document {document_id}")

    def document(self, document_id: int) -> Document:
        """A live document as it was registered; raises `UnknownDocument`."""
        segment, row = self.find(document_id)
        return segment.document(row)

    def live_ids(self) -> list[int]:
        """Numbers of all live documents, ascending."""
        return sorted(i for segment in self.segments for i in segment.live_ids())


class Index:
    """An open index. `view` is its present state; safe to share between threads."""

    def __init__(
        self,
        directory: Path,
        encoder: Encoder,
        *,
        depth: int = 8,
        keep_text: bool = True,
        segment_words: int = 1 << 26,
        read_only: bool = False,
        verify: bool = True,
    ) -> None:
        """Open, or create where there is none.

        Args:
            directory: made with access for its owner only.
            encoder: its name must be the one that the index was made with.
            depth: shortest match that the gate serves, of a new index.
            keep_text: keep the documents' text, so that a passage can be shown.
            segment_words: words of the largest segment; sorting takes 30 bytes of memory for each.
            read_only: search only; `refresh` follows another process that writes.
            verify: read everything and compare it with its checksums.

        Raises:
            IndexMissing: read-only, and there is none.
            IndexCorrupt: a file is damaged.
            IndexMismatch: it was made with another encoder.
            IndexLocked: another process writes to it.
        """
        self._directory, self._encoder = directory, encoder
        self._segment_words, self._verify = segment_words, verify
        self._commits, self._builds = threading.Lock(), threading.Lock()
        self._lock = None if read_only else _lock(directory)
        try:
            self._manifest = self._first_manifest(depth)
            self._recipe = Recipe(
                directory, encoder, self._manifest.depth, keep_text, segment_words
            )
            self.view = View(0, self._manifest.depth, ())
            self.refresh()
            if not read_only:
                self._discard_unused()
        except BaseException:
            self.close()
            raise

    @property
    def next_id(self) -> int:
        """The number that the next document gets."""
        return self._manifest.next_id

    def verify(self) -> None:
        """Read everything again and compare it with its checksums.

        Raises:
            IndexCorrupt: a file is damaged or missing.
        """
        with self._builds:
            for segment in self.view.segments:
                open_segment(self._directory / segment.name).container.verify()

    def close(self) -> None:
        """Let another process write. Views stay readable."""
        if self._lock is not None:
            # Closing is not enough: a process that another thread starts has the file open for a
            # moment, too.
            fcntl.flock(self._lock, fcntl.LOCK_UN)
            os.close(self._lock)
            self._lock = None

    def refresh(self) -> View:
        """Take over what a writing process has published since.

        Raises:
            IndexCorrupt: a file is damaged or missing.
        """
        for _ in range(5):
            manifest = read_manifest(self._directory)
            try:
                self.view = self._open(manifest, self.view.segments)
            except IndexMissing:
                # The writer merged segments between our two looks.
                continue
            self._manifest = manifest
            return self.view
        raise IndexCorrupt("the manifest names segments that are not there")

    def add(self, documents: Iterable[Document]) -> list[int]:
        """Add documents, all at once visible and durable on return; gives their numbers.

        Reads them as a stream: no more than one segment's words are in memory.
        """
        return self.adopt(lambda recipe, first: recipe.build(documents, first))

    def adopt(self, build: Callable[[Recipe, int], Built]) -> list[int]:
        """Add the documents of segments that `build` makes, which may be done elsewhere; as `add`.

        `build` is given how segments of this index are made and its first document's number.
        """
        with self._builds:
            first = self._manifest.next_id
            try:
                built = build(self._recipe, first)
                if not built.segments:
                    return []
                with self._commits:
                    manifest = self._manifest
                    manifest = manifest.successor(
                        next_id=built.next_id,
                        segments=(*manifest.segments, *built.segments),
                        withdrawn=(*manifest.withdrawn, *built.withdrawn),
                    )
                    self._commit(manifest)
            except BaseException:
                self._discard_unused()
                raise
        return list(range(first, built.next_id))

    def withdraw(self, ids: Iterable[int], *, erase: bool = False) -> None:
        """Take documents out of every match, at once and durably.

        With `erase` they are also gone from disk on return: the segments that hold them are written
        anew without them and unlinked. Readers of an earlier view keep it until they let it go.

        Raises:
            UnknownDocument: one of the numbers is of no live document; nothing is withdrawn.
        """
        with self._commits:
            gone = set(ids)
            for document_id in gone:
                self.view.find(document_id)
            withdrawn = tuple(sorted(gone.union(self._manifest.withdrawn)))
            self._commit(self._manifest.successor(withdrawn=withdrawn))
        if erase:
            self.erase()

    def erase(self) -> None:
        """Remove from disk all that is withdrawn."""
        with self._builds:
            for segment in [s for s in self.view.segments if s.withdrawn]:
                self._rebuild([segment.name])

    def maintain(self) -> bool:
        """Merge or purge segments where that is due; gives whether anything was done.

        Meant for a background thread: call until False. Adding waits for it, searching and
        withdrawing do not.
        """
        with self._builds:
            sizes = {s.name: s.words for s in self.view.segments}
            dead = {s.name: s.words - s.live_words for s in self.view.segments}
            names = due_for_merge(sizes, self._segment_words) or due_for_purge(sizes, dead)
            if names:
                self._rebuild(names)
            return bool(names)

    def _first_manifest(self, depth: int) -> Manifest:
        if self._lock is not None and not (self._directory / MANIFEST).exists():
            write_manifest(self._directory, Manifest(self._encoder.name, depth))
        manifest = read_manifest(self._directory)
        if manifest.view != self._encoder.name:
            raise IndexMismatch(
                f"the index holds {manifest.view}, its reader expects {self._encoder.name}"
            )
        return manifest

    def _open(self, manifest: Manifest, known: Sequence[Segment]) -> View:
        have = {segment.name: segment for segment in known}
        segments = []
        for entry in manifest.segments:
            segment = have.get(entry.name) or open_segment(self._directory / entry.name)
            if segment.container.checksum != entry.checksum:
                raise IndexCorrupt(f"{entry.name} is not the file that the manifest names")
            if entry.name not in have and self._verify:
                segment.container.verify()
            segments.append(segment.without(manifest.withdrawn))
        return View(manifest.generation, manifest.depth, tuple(segments))

    def _commit(self, manifest: Manifest) -> None:
        """Publish a state; the caller holds `_commits`."""
        view = self._open(manifest, self.view.segments)
        write_manifest(self._directory, manifest)
        self._manifest, self.view = manifest, view

    def _rebuild(self, names: Sequence[str]) -> None:
        """Replace segments by one with their live documents; the caller holds `_builds`."""
        old = [segment for segment in self.view.segments if segment.name in names]
        entries = sorted((e for s in old for e in s.entries()), key=lambda e: e.document_id)
        made = (self._recipe.write(entries),) if entries else ()
        left = {entry.document_id for entry in entries}
        dropped = {i for segment in old for i in segment.ids.tolist()} - left
        with self._commits:
            manifest = self._manifest
            kept = tuple(s for s in manifest.segments if s.name not in names)
            # What was withdrawn meanwhile is in the new segment and stays withdrawn.
            withdrawn = tuple(i for i in manifest.withdrawn if i not in dropped)
            self._commit(manifest.successor(segments=(*kept, *made), withdrawn=withdrawn))
        for name in names:
            (self._directory / name).unlink()
        flush_directory(self._directory)

    def _discard_unused(self) -> None:
        """Remove what an interrupted writer left behind; nobody may be writing."""
        # What the disk says counts: a commit may have failed after its manifest was renamed.
        used = {entry.name for entry in read_manifest(self._directory).segments}
        for path in self._directory.glob("*.segment"):
            if path.name not in used:
                path.unlink()
        for draft in self._directory.glob(".*.draft"):
            draft.unlink()


def _lock(directory: Path) -> int:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise IndexLocked("another process writes to this provenance index") from None
    return handle
