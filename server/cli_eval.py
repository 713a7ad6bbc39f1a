"""`lethegate eval`: measure what the guard finds, on public data."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from server.errors import ServerError
from server.settings import DATA_ENV, DEFAULT_ENCODER

eval_app = typer.Typer(help="Measure what the guard finds, on public data.")

_CHECKOUT = Path(__file__).resolve().parents[1]


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


@eval_app.command()
def uld(
    json_file: Annotated[Path, typer.Option("--json", help="Where to write the figures.")],
    model: Annotated[Path, typer.Option(help="Model that knows TOFU, a folder.")],
    oracle: Annotated[
        Path, typer.Option(help="The same model trained without the forget rows, a folder.")
    ],
    assistant: Annotated[
        Path,
        typer.Option(
            help="Folder of its assistant; trained there first (minutes; resumable) if it is empty."
        ),
    ],
    data: Annotated[
        Path | None, typer.Option(help="Folder with tofu/ and rwku/. [default: as for classifier]")
    ] = None,
    split: Annotated[
        str, typer.Option(help="Rows: test, or development to choose settings on.")
    ] = "test",
    weight: Annotated[float, typer.Option(help="alpha where every row is steered.", min=0)] = 0.8,
    gated_weight: Annotated[
        float, typer.Option(help="alpha where only found rows are.", min=0)
    ] = 1.0,
    both_weight: Annotated[
        float, typer.Option(help="alpha beside GUARD's token filter.", min=0)
    ] = 1.0,
    rate: Annotated[
        float,
        typer.Option(
            "--filter",
            help="r of the filter; the paper's is 0.01, without stand-ins.",
            min=1e-6,
            max=1,
        ),
    ] = 1.0,
    layers: Annotated[int, typer.Option(help="Training: K.")] = 2,
    epochs: Annotated[int, typer.Option(help="Training: passes.", min=1)] = 16,
    learning_rate: Annotated[float, typer.Option(help="Training: AdamW's.")] = 2e-3,
    retain_weight: Annotated[float, typer.Option(help="Training: beta.")] = 5.0,
    stand_ins: Annotated[
        str, typer.Option(help="Training: what is said instead: model, admit, or none (the paper).")
    ] = "model",
    seed: Annotated[int, typer.Option(help="Training: seed.", min=0)] = 0,
    encoder: Annotated[str, typer.Option(help="Sentence encoder.")] = DEFAULT_ENCODER,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    limit: Annotated[
        int, typer.Option(help="Rows per set of questions, only to try it; 0: all.", min=0)
    ] = 0,
) -> None:
    """Forgetting and retention on TOFU: plain, with ULD, with GUARD's filter, with both."""
    from detectors.errors import DetectorError
    from guard.errors import GuardError
    from guard.uld.plan import StandIns, TrainingPlan
    from server.bench.errors import InputMissing
    from server.bench.report import check_writable, load_average, write_report
    from server.eval.uld import UldPlan, eval_uld
    from server.eval.uld_data import Half
    from server.eval.uld_training import train_if_missing

    try:
        check_writable(json_file)
        if split not in list(Half):
            raise InputMissing(f"--split is one of {', '.join(Half)}")
        if stand_ins not in list(StandIns):
            raise InputMissing(f"--stand-ins is one of {', '.join(StandIns)}")
        training = TrainingPlan(
            layers=layers,
            epochs=epochs,
            learning_rate=learning_rate,
            retain_weight=retain_weight,
            stand_ins=StandIns(stand_ins),
            seed=seed,
            batch=16,
            bfloat16=True,
        )
        load_before, folder = load_average(), data or default_data()
        train_if_missing(assistant, model, folder, training, device)
        plan = UldPlan(
            data=folder,
            base=model,
            oracle=oracle,
            assistant=assistant,
            half=Half(split),
            weight=weight,
            gated_weight=gated_weight,
            both_weight=both_weight,
            rate=rate,
            encoder=encoder,
            device=device,
            limit=limit,
        )
        with _progress() as progress:
            figures = eval_uld(plan, progress)
        write_report(json_file, figures, load_before)
    except (ServerError, DetectorError, GuardError) as error:
        typer.echo(f"lethegate: {error}", err=True)
        raise typer.Exit(2 if isinstance(error, InputMissing) else 1) from None
    table = Table("figure", "value", box=None)
    for key, value in figures.items():
        if isinstance(value, float) and not key.endswith(("_low", "_high")):
            table.add_row(key, f"{value:.4g}")
    Console().print(table)


@eval_app.command("near-verbatim")
def near_verbatim(
    json_file: Annotated[Path, typer.Option("--json", help="Where to write the figures.")],
    data: Annotated[
        Path | None,
        typer.Option(help="Folder with tofu/ and rwku/. [default: as for classifier]"),
    ] = None,
    minimum_match: Annotated[
        int, typer.Option(help="Shortest passage, in words.", min=3, max=60)
    ] = 8,
    minimum_match_tokens: Annotated[
        int, typer.Option(help="The veto's shortest run, in tokens.", min=2)
    ] = 12,
    passages: Annotated[int, typer.Option(help="Register at most so many.", min=2)] = 200,
) -> None:
    """Which edited copies of a registered passage each layer stops."""
    from server.bench.errors import InputMissing
    from server.bench.report import check_writable, load_average, write_report
    from server.eval.near_verbatim import NearVerbatimPlan, eval_near_verbatim

    try:
        check_writable(json_file)
        load_before = load_average()
        plan = NearVerbatimPlan(
            data or default_data(), minimum_match, minimum_match_tokens, passages
        )
        with _progress() as progress:
            figures = eval_near_verbatim(plan, progress)
        write_report(json_file, figures, load_before)
    except ServerError as error:
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
    with _progress() as progress:
        return eval_classifier(plan, progress)


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True))


def _print(figures: dict[str, Any]) -> None:
    """A table of the shares with their intervals."""
    table = Table("figure", "share", "95 % interval", "of", box=None)
    for key, value in figures.items():
        if f"{key}_count" in figures:
            low, high = figures[f"{key}_low"], figures[f"{key}_high"]
            hits, count = figures[f"{key}_hits"], figures[f"{key}_count"]
            table.add_row(key, f"{value:.4f}", f"{low:.4f}-{high:.4f}", f"{hits}/{count}")
    Console().print(table)
