"""`lethegate index`: provenance indexes apart from a server, on one machine or several."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from server.cli_admin import print_json
from server.cli_settings import Fail, with_settings
from server.provenance.files import documents_of, find_files
from server.provenance.schemas import DEFAULT_MATCH
from server.settings import Settings

if TYPE_CHECKING:
    from tracing.index import Index

Directory = Annotated[Path, typer.Argument(metavar="DIRECTORY", help="The index.")]
Ray = Annotated[
    str | None,
    typer.Option(help="Address of a Ray cluster, auto, or local: --workers on this machine."),
]
Workers = Annotated[int, typer.Option(min=1, help="Tasks or holders at once.")]

index_app = typer.Typer(help="Build and search provenance indexes, on one machine or several.")


@index_app.command("build")
@with_settings(())
def build(
    directory: Directory,
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...",
            help=".txt, .md or .jsonl files, also .gz, .bz2 or .xz, and directories of them.",
        ),
    ],
    *,
    settings: Settings,
    minimum_match: Annotated[
        int, typer.Option(min=3, max=60, help="Shortest passage, in words.")
    ] = DEFAULT_MATCH,
    ray: Ray = None,
    workers: Workers = 4,
    shards: Annotated[
        int, typer.Option(min=1, help="With --ray: parts that are sorted apart.")
    ] = 16,
) -> None:
    """Add the documents in PATHs to the index in DIRECTORY, which is made if there is none.

    On a cluster DIRECTORY and PATHs must be on a file system that every machine has.
    """
    from guard.background import word_view
    from tracing.index import Index

    files = [path.absolute() for path in find_files(paths)]
    with (
        _told(),
        closing(
            Index(directory.absolute(), word_view(), depth=minimum_match, verify=False)
        ) as index,
    ):
        if ray is None:
            added = index.add(document for path in files for document in documents_of(path))
        else:
            added = _build_on(ray, workers, index, files, shards)
        segments = index.view.segments
    words = sum(segment.words for segment in segments)
    print_json({"added": len(added), "segments": len(segments), "words": words})


@index_app.command("search")
@with_settings(())
def search(
    directory: Directory,
    *,
    settings: Settings,
    minimum_match: Annotated[
        int, typer.Option(min=1, max=60, help="Shortest passage, in words.")
    ] = DEFAULT_MATCH,
    ray: Ray = None,
    workers: Workers = 4,
) -> None:
    """Print where the text on standard input comes from: its spans, scores and documents."""
    from guard.background import background, word_view
    from tracing.attribution import Limits, attribute
    from tracing.index import Index

    words = word_view().words(sys.stdin.read())
    limits = Limits(minimum_match)
    nats = background().surprisal(words.folded)
    with _told():
        if ray is None:
            held: Any = Index(directory.absolute(), word_view(), read_only=True).view
            found = attribute(held, words.symbols, nats, limits)
        else:
            from tracing.cluster import Cluster, connected

            with connected(ray, workers) as session:
                cluster = Cluster(session, directory.absolute(), workers)
                found = attribute(cluster, words.symbols, nats, limits)
    print_json(
        [
            {
                "start": int(words.starts[a.span.start]),
                "end": int(words.ends[a.span.end - 1]),
                "words": a.span.length,
                "count": a.span.count,
                "nats": round(a.best.nats, 3),
                "raw": round(a.raw, 3),
                "sources": [[at.document_id, at.first] for at in a.sources],
            }
            for a in found
        ]
    )


def _build_on(
    address: str, workers: int, index: Index, files: list[Path], shards: int
) -> list[int]:
    from tracing.cluster import build_on, connected, shards_of

    console = Console(stderr=True)
    with (
        connected(address, workers) as ray,
        Progress(console=console, disable=not console.is_terminal) as bar,
    ):
        task = bar.add_task("sorting", total=None)
        return build_on(
            ray,
            index,
            shards_of(files, shards),
            documents_of,
            lambda done, total: bar.update(task, completed=done, total=total),
        )


@contextmanager
def _told() -> Iterator[None]:
    """Tell what is wrong with an index or a cluster in one line."""
    from tracing.errors import TracingError

    try:
        yield
    except TracingError as error:
        raise Fail(str(error)) from None
