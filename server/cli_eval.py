"""`lethegate eval`: measure what the guard finds, on public data."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from detectors.encoder import DEFAULT_ENCODER
from server.errors import ServerError

eval_app = typer.Typer(help="Measure what the guard finds, on public data.")

DATA_ENV = "LETHEGATE_TEST_DATA"
_CHECKOUT = Path(__file__).resolve().parents[1]


@eval_app.callback()
def _group() -> None:
    """Keeps `classifier` a command of its own while it is the only one."""


@eval_app.command()
def classifier(
    json_file: Annotated[Path, typer.Option("--json", help="Where to write the figures.")],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder with tofu/ and rwku/. [default: $LETHEGATE_TEST_DATA, else the folder "
            "shared/data beside the checkout]"
        ),
    ] = None,
    encoder: Annotated[str, typer.Option(help="Sentence encoder.")] = DEFAULT_ENCODER,
    encoder_device: Annotated[
        str | None, typer.Option(help="Its device. [default: CUDA where there is one]")
    ] = None,
    alpha: Annotated[
        float, typer.Option(help="False-positive rate to calibrate for.", min=1e-6, max=0.5)
    ] = 0.005,
    split: Annotated[
        str, typer.Option(help="RWKU subjects: test, or development to tune on.")
    ] = "test",
    embedding_cache: Annotated[
        Path | None, typer.Option(help="Keep embeddings in this file between runs.")
    ] = None,
) -> None:
    """Recall on forget prompts and false positives on innocent ones, beside GUARD's router."""
    from detectors.errors import DetectorError
    from server.bench.errors import InputMissing
    from server.bench.report import check_writable, load_average, write_report

    try:
        check_writable(json_file)
        load_before = load_average()
        figures = _evaluate(
            data or default_data(), encoder, encoder_device, alpha, split, embedding_cache
        )
        write_report(json_file, figures, load_before)
    except (ServerError, DetectorError) as error:
        typer.echo(f"lethegate: {error}", err=True)
        raise typer.Exit(2 if isinstance(error, InputMissing) else 1) from None
    _print(figures)


def default_data() -> Path:
    """Where the evaluation's files are looked for when no folder is given."""
    stated = os.environ.get(DATA_ENV)
    return Path(stated) if stated else _CHECKOUT.parent / "shared" / "data"


def _evaluate(
    data: Path, encoder: str, device: str | None, alpha: float, split: str, cache: Path | None
) -> dict[str, Any]:
    from server.bench.errors import InputMissing
    from server.eval.classifier import ClassifierPlan, eval_classifier
    from server.eval.rwku import Split

    if split not in list(Split):
        raise InputMissing(f"--split is one of {', '.join(Split)}")
    plan = ClassifierPlan(data, encoder, device, alpha, Split(split), cache)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as progress:
        return eval_classifier(plan, progress)


def _print(figures: dict[str, Any]) -> None:
    """A table of the shares with their intervals."""
    table = Table("figure", "share", "95 % interval", "of", box=None)
    for key, value in figures.items():
        if f"{key}_count" in figures:
            low, high = figures[f"{key}_low"], figures[f"{key}_high"]
            hits, count = figures[f"{key}_hits"], figures[f"{key}_count"]
            table.add_row(key, f"{value:.4f}", f"{low:.4f}-{high:.4f}", f"{hits}/{count}")
    Console().print(table)
