"""Building and searching an index on several machines, with Ray; the only module that imports it.

Segments are independent, so building is a map over shards of files: a task per shard reads,
encodes and sorts its documents into segments, and one manifest names them all at the end. For
searching, actors hold segments and each question goes to all of them: the longest match is the
longest of any, and counts add up, exactly as over the segments of one process. The index's
directory, and the files to read, must be reachable under the same paths on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tracing.building import Built, Recipe
from tracing.container import Array
from tracing.document import Document
from tracing.errors import ClusterUnavailable, IndexCorrupt, TracingError, UnknownDocument
from tracing.index import Index, View
from tracing.manifest import Manifest, SegmentName, read_manifest
from tracing.matching import Held, Int64, Lengths, Occurrence, Span
from tracing.segment import open_segment

LOCAL = "local"

Read = Callable[[Path], Iterable[Document]]
Shard = Sequence[Path]


@contextmanager
def connected(address: str, workers: int | None = None) -> Iterator[Any]:
    """Ray at an address, for as long as the block runs: a cluster's, `auto`, or `local`.

    `local` starts one on this machine, with as many workers at once as `workers`.

    Raises:
        ClusterUnavailable: Ray is not installed, or there is none at that address.
    """
    try:
        import ray
    except ImportError:
        raise ClusterUnavailable("Ray is not installed: pip install ray") from None
    here = {"num_cpus": workers, "include_dashboard": False} if address == LOCAL else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error", **here)
    except (ConnectionError, ValueError) as error:
        raise ClusterUnavailable(f"cannot reach Ray at {address}: {error}") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def shards_of(files: Sequence[Path], number: int) -> list[list[Path]]:
    """The files in at most `number` shards of about equal size, each in its order."""
    shards: list[list[Path]] = [[] for _ in range(max(1, number))]
    sizes = [0] * len(shards)
    for path in sorted(files, key=lambda path: path.stat().st_size, reverse=True):
        least = sizes.index(min(sizes))
        shards[least].append(path)
        sizes[least] += path.stat().st_size
    return [sorted(shard) for shard in shards if shard]


def build_on(
    ray: Any,
    index: Index,
    shards: Sequence[Shard],
    read: Read,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[int]:
    """Add the documents of shards of files, each sorted by a task; all visible and durable at once.

    Documents are numbered in the order of the shards: they are counted in a first pass.

    Args:
        ray: of `connected`.
        index: open for writing, here.
        read: gives a file's documents; it is imported where the tasks run.
        progress: told how many shards are done, and of how many.

    Returns:
        The documents' numbers.

    Raises:
        TracingError: files changed between the two passes.
    """

    def build(recipe: Recipe, first: int) -> Built:
        counts = ray.get([ray.remote(_count).remote(read, shard) for shard in shards])
        starts = np.cumsum([first, *counts]).tolist()
        shared = ray.put(recipe)
        waiting = [
            ray.remote(_build).remote(shared, read, shard, start)
            for shard, start in zip(shards, starts, strict=False)
        ]
        order = {task: place for place, task in enumerate(waiting)}
        made: list[tuple[SegmentName, ...]] = [()] * len(shards)
        progress(0, len(shards))
        while waiting:
            [done], waiting = ray.wait(waiting)
            built = ray.get(done)
            made[order[done]] = built.segments
            if built.next_id != starts[order[done] + 1]:
                raise TracingError("files of a shard changed while they were read")
            progress(len(shards) - len(waiting), len(shards))
        return Built(tuple(name for names in made for name in names), starts[-1])

    return index.adopt(build)


class Cluster:
    """An index's segments, held by actors; a `tracing.matching.Holder`.

    Args:
        ray: of `connected`.
        directory: of the index.
        holders: how many actors; each opens its segments and compares them with their checksums.

    Raises:
        IndexProblem: the index cannot be read.
    """

    def __init__(self, ray: Any, directory: Path, holders: int) -> None:
        self._ray, self._directory = ray, directory
        self._manifest = Manifest("", 0)
        actor = ray.remote(_Holding)
        self._actors = [actor.remote(directory) for _ in range(max(1, holders))]
        self._places: dict[str, int] = {}
        self.refresh()

    @property
    def generation(self) -> int:
        """Of the index's state that is searched."""
        return self._manifest.generation

    def refresh(self) -> None:
        """Take over what the index's writer has published since; segments stay where they are.

        Raises:
            IndexProblem: it cannot be read; what was held before is still searched.
        """
        manifest = read_manifest(self._directory)
        places = _placed(manifest.segments, self._places, len(self._actors))
        held: list[list[SegmentName]] = [[] for _ in self._actors]
        for name in manifest.segments:
            held[places[name.name]].append(name)
        self._get(
            actor.prepare.remote(names, manifest)
            for actor, names in zip(self._actors, held, strict=True)
        )
        self._get(actor.switch.remote() for actor in self._actors)
        self._manifest, self._places = manifest, places

    def lengths(self, query: Array, minimum: int) -> tuple[Lengths, Lengths]:
        """The longest of any actor's; see `tracing.matching.Holder`."""
        found = self._all("lengths", query, minimum)
        matched, short = zip(*found, strict=True)
        return np.maximum.reduce(matched), np.maximum.reduce(short)

    def counts(
        self, query: Array, runs: tuple[Array, Array], whole: tuple[Array, Array]
    ) -> tuple[Int64, Int64]:
        """The sums over all actors; see `tracing.matching.Holder`."""
        counts, copies = zip(*self._all("counts", query, runs, whole), strict=True)
        return np.add.reduce(counts), np.add.reduce(copies)

    def occurrences(self, query: Array, span: Span, limit: int) -> list[Occurrence]:
        """Of all actors, the first by document and place; see `tracing.matching.Holder`."""
        found = [at for part in self._all("occurrences", query, span, limit) for at in part]
        return sorted(found, key=lambda at: (at.document_id, at.first))[:limit]

    def document(self, document_id: int) -> Document:
        """A live document as it was registered.

        Raises:
            UnknownDocument: there is none of this number.
        """
        for found in self._all("document", document_id):
            if found is not None:
                document: Document = found
                return document
        raise UnknownDocument(f"no document {document_id}")

    def _all(self, method: str, *arguments: Any) -> list[Any]:
        return self._get(getattr(actor, method).remote(*arguments) for actor in self._actors)

    def _get(self, calls: Iterable[Any]) -> list[Any]:
        try:
            found: list[Any] = self._ray.get(list(calls))
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None
        return found


class _Holding:
    """An actor: some segments of an index."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._held = self._next = Held(View(0, 1, ()))

    def prepare(self, names: Sequence[SegmentName], manifest: Manifest) -> None:
        """Open segments, new ones after comparing them with their checksums."""
        have = {segment.name: segment for segment in self._held.view.segments}
        segments = []
        for name in names:
            segment = have.get(name.name)
            if segment is None:
                segment = open_segment(self._directory / name.name)
                if segment.container.checksum != name.checksum:
                    raise IndexCorrupt(f"{name.name} is not the file that the manifest names")
                segment.container.verify()
            segments.append(segment.without(manifest.withdrawn))
        self._next = Held(View(manifest.generation, manifest.depth, tuple(segments)))

    def switch(self) -> None:
        """From now on search what was prepared."""
        self._held = self._next

    def lengths(self, query: Array, minimum: int) -> tuple[Lengths, Lengths]:
        return self._held.lengths(_own(query), minimum)

    def counts(
        self, query: Array, runs: tuple[Array, Array], whole: tuple[Array, Array]
    ) -> tuple[Int64, Int64]:
        pairs = [tuple(_own(array) for array in pair) for pair in (runs, whole)]
        return self._held.counts(_own(query), *pairs)  # type: ignore[arg-type]

    def occurrences(self, query: Array, span: Span, limit: int) -> list[Occurrence]:
        return self._held.occurrences(_own(query), span, limit)

    def document(self, document_id: int) -> Document | None:
        try:
            return self._held.view.document(document_id)
        except UnknownDocument:
            return None


def _count(read: Read, shard: Shard) -> int:
    return sum(1 for path in shard for _ in read(path))


def _build(recipe: Recipe, read: Read, shard: Shard, first: int) -> Built:
    documents = (document for path in shard for document in read(path))
    return recipe.build(documents, first)


def _placed(names: Iterable[SegmentName], known: dict[str, int], actors: int) -> dict[str, int]:
    """Which actor holds which segment: the known ones where they are, others where least is."""
    names = list(names)
    places = {name.name: known[name.name] for name in names if name.name in known}
    words = [0] * actors
    for name in names:
        if name.name in places:
            words[places[name.name]] += name.words
    for name in sorted(names, key=lambda name: name.words, reverse=True):
        if name.name not in places:
            places[name.name] = words.index(min(words))
            words[places[name.name]] += name.words
    return places


def _own(array: Array) -> Array:
    """A copy: Ray's arrays are read-only, and compiled loops are compiled once more for those."""
    return np.array(array)
