"""`lethegate bench`: measure what the guard costs on this machine."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from detectors.errors import DetectorError
from server.errors import ServerError

bench_app = typer.Typer(help="Measure what the guard costs, against plain vLLM on this machine.")

JsonFile = Annotated[Path, typer.Option("--json", help="Where to write the figures.")]


def run(json_file: Path, bench: Callable[[Progress], dict[str, Any]]) -> dict[str, Any]:
    """Run a bench with a bar of its progress, write its report and print it."""
    from server.bench.report import check_writable, load_average, write_report

    check_writable(json_file)
    load_before = load_average()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as progress:
        figures = bench(progress)
    write_report(json_file, figures, load_before)
    _print(figures)
    return figures


def _print(figures: dict[str, Any]) -> None:
    """A table of the figures: those with a spread on one line each."""
    table = Table("figure", "median", "min", "max", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for key, value in figures.items():
        if f"{key}_min" in figures:
            low, high = figures[f"{key}_min"], figures[f"{key}_max"]
            table.add_row(key, f"{value:.4g}", f"{low:.4g}", f"{high:.4g}")
        elif isinstance(value, int):
            table.add_row(key, str(value), "", "")
    Console().print(table)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Errors as one line, then what the servers' logs say; SIGTERM and SIGHUP act as Ctrl-C."""
    # A shell starts background jobs with Ctrl-C ignored; the others would then do nothing either.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    except (ServerError, DetectorError) as error:
        for note in getattr(error, "__notes__", ()):
            typer.echo(note, err=True)
        typer.echo(f"lethegate: {error}", err=True)
        from server.bench.errors import InputMissing

        raise typer.Exit(2 if isinstance(error, InputMissing) else 1) from None
