"""Taking over the segments of another index, such as one that a cluster built.

Segments are immutable and carry their documents' numbers, so they go as they are into an index
that never had a document. Nothing is sorted anew: it costs one copy and one reading.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from tracing.building import Built, Recipe
from tracing.container import create, flush, flush_directory
from tracing.errors import IndexCorrupt, IndexMismatch, IndexMissing
from tracing.index import Index
from tracing.manifest import Manifest, SegmentName, read_manifest


def take_over(
    index: Index, source: Path, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[int]:
    """Add the live documents of the index in `source`, under their numbers; as `Index.add`.

    What is copied is compared with its checksums before it is visible; `source` stays as it is.

    Args:
        index: open for writing; it never had a document.
        source: directory of the other index, to which nobody should be writing.
        progress: told how many segments are copied, and of how many.

    Returns:
        The documents' numbers.

    Raises:
        IndexMissing: there is none, or it changed meanwhile.
        IndexCorrupt: a file of it is damaged.
        IndexMismatch: it has another view or serves longer matches only, or `index` had documents.
    """
    manifest = read_manifest(source)

    def build(recipe: Recipe, first: int) -> Built:
        _require_fit(manifest, recipe, first)
        names = []
        for number, name in enumerate(manifest.segments):
            progress(number, len(manifest.segments))
            names.append(_copied(source, name, recipe.directory))
        flush_directory(recipe.directory)
        return Built(tuple(names), manifest.next_id, manifest.withdrawn)

    index.adopt(build)
    return index.view.live_ids()


def _require_fit(manifest: Manifest, recipe: Recipe, first: int) -> None:
    if first:
        raise IndexMismatch("only an index that never had documents can take over another")
    if manifest.view != recipe.encoder.name:
        raise IndexMismatch(
            f"the index holds {manifest.view}, its reader expects {recipe.encoder.name}"
        )
    if manifest.depth > recipe.depth:
        raise IndexMismatch(
            f"the index serves matches from {manifest.depth} words on, not from {recipe.depth}"
        )


def _copied(source: Path, name: SegmentName, directory: Path) -> SegmentName:
    if Path(name.name).name != name.name:
        raise IndexCorrupt("the manifest names a file elsewhere")
    made = SegmentName(f"{uuid.uuid4().hex}.segment", name.checksum, name.words)
    try:
        with (source / name.name).open("rb") as there, create(directory / made.name) as here:
            shutil.copyfileobj(there, here, 1 << 22)
            flush(here)
    except FileNotFoundError:
        raise IndexMissing(f"there is no {name.name}") from None
    return made
