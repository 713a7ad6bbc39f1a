"""`lethegate attack`: the bypass suite against a running server."""

from __future__ import annotations

import asyncio
import functools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from server.auth import admin_key
from server.cli_admin import CLIENT_SETTINGS
from server.cli_settings import Fail, with_settings
from server.client import AdminClient
from server.settings import Settings

if TYPE_CHECKING:
    from detectors.targets import ForgetTarget
    from server.attack.active import Active
    from server.attack.cases import Case, Prey
    from server.attack.judge import Result
    from server.attack.runner import Asking

KEY_ENV = "OPENAI_API_KEY"


@with_settings(CLIENT_SETTINGS)
def attack(
    *,
    settings: Settings,
    target: Annotated[
        str, typer.Option(help="JSON file of a forget target, or the id of a registered one.")
    ],
    url: Annotated[str, typer.Option(help="The guarded server, without /v1.")],
    control: Annotated[
        str | None, typer.Option(help="The same model without the guard: which cases would leak.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report here.")] = None,
    html_file: Annotated[
        Path | None, typer.Option("--html", help="Write the report as a page here.")
    ] = None,
    rounds: Annotated[
        int, typer.Option(help="Examples that each combination is tried on.", min=1)
    ] = 1,
    full: Annotated[
        bool, typer.Option("--full", help="Every kind in every encoding, not only in plain text.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(help="Try this many cases, evenly chosen.", min=1)
    ] = None,
    shapes: Annotated[
        str, typer.Option(help="Only shapes whose names contain this, such as responses.")
    ] = "",
    concurrency: Annotated[int, typer.Option(help="Requests at once.", min=1)] = 8,
    checks: Annotated[
        bool,
        typer.Option(
            "--checks", help="Ask the server, with the admin key, which phrases were switched on."
        ),
    ] = False,
) -> None:
    """Try every way round the guard; exit status 1 if a forbidden phrase came out.

    A client key is taken from OPENAI_API_KEY. The report holds counts and case ids, no text.
    """
    from server.attack.cases import matrix, prey_of
    from server.attack.report import figures, write_html
    from server.attack.runner import Asking
    from server.bench.report import check_writable, load_average, write_report

    for path in (json_file, html_file):
        if path is not None:
            check_writable(path)
    load_before = load_average()
    attacked = _read_target(target, settings)
    asking = None
    if checks:
        _check_registered(attacked, settings)
        asking = Asking(admin_key(settings), attacked.id)
    prey = prey_of(attacked)
    if not prey:
        raise Fail("the target has no examples to attack", 2)
    cases = [case for case in matrix(len(prey), rounds, full=full) if shapes in case.shape]
    if not cases:
        raise Fail(f"no shape's name contains {shapes!r}", 2)
    if limit is not None and limit < len(cases):
        cases = [cases[i * len(cases) // limit] for i in range(limit)]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        run = functools.partial(_run, cases, prey, concurrency, progress)
        results = run("attack", url, asking)
        known = [result.active for result in results]
        without = None if control is None else run("control", control, None, known)
    report = figures(attacked.id, results, without, asked=checks)
    if json_file is not None:
        write_report(json_file, report, load_before)
    if html_file is not None:
        write_html(html_file, report)
    summary = {key: value for key, value in report.items() if key.startswith("num_")}
    typer.echo(json.dumps(summary, indent=2))
    if report["num_emitted"]:
        raise typer.Exit(1)


def _run(
    cases: Sequence[Case],
    prey: Sequence[Prey],
    concurrency: int,
    progress: Progress,
    name: str,
    url: str,
    asking: Asking | None,
    known: Sequence[Active | None] | None = None,
) -> list[Result]:
    """Try all cases on one server."""
    from server.attack.runner import Server

    task = progress.add_task(name, total=len(cases))
    server = Server(url, os.environ.get(KEY_ENV), concurrency, asking)
    advance = functools.partial(progress.advance, task)
    return asyncio.run(server.attack(cases, prey, advance, known))


def _check_registered(attacked: ForgetTarget, settings: Settings) -> None:
    """Make sure that what a check tells is about this target, not another one of its id."""
    if _registered(attacked.id, settings) != attacked:
        raise Fail("the registered target differs from the file: name it by its id", 2)


def _read_target(name: str, settings: Settings) -> ForgetTarget:
    """The target in a file, else the registered one of this id."""
    path = Path(name)
    if not path.is_file():
        return _registered(name, settings)
    try:
        return _target(json.loads(path.read_bytes()))
    except (OSError, ValueError):
        raise _unreadable() from None


def _registered(target_id: str, settings: Settings) -> ForgetTarget:
    with AdminClient.of(settings) as client:
        return _target(client.target(target_id)["target"])


def _target(document: Any) -> ForgetTarget:
    from server.schemas import TargetIn

    try:
        known = {key: document[key] for key in TargetIn.model_fields if key in document}
        return TargetIn.model_validate(known).to_target()
    except (ValidationError, TypeError):
        raise _unreadable() from None


def _unreadable() -> Fail:
    """The messages of what went wrong would repeat what is to be forgotten."""
    return Fail("the target cannot be read", 2)
