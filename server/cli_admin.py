"""`lethegate targets` and `lethegate jobs`: the admin API from a shell."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from server.cli_settings import Fail, with_settings
from server.client import AdminClient
from server.settings import Settings

CLIENT_SETTINGS = ("state_dir", "admin_host", "admin_port")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until it is in force.")]
Timeout = Annotated[float, typer.Option(help="Longest wait, in seconds.", min=0)]
TargetId = Annotated[str, typer.Argument(metavar="ID", help="The target's id.")]

targets_app = typer.Typer(help="Register, list, show and withdraw forget targets.")
jobs_app = typer.Typer(help="Follow changes on their way into force.")


@targets_app.command("add")
@with_settings(CLIENT_SETTINGS)
def add_target(
    file: Annotated[str, typer.Argument(help="JSON file of one target, or - for standard input.")],
    *,
    settings: Settings,
    wait: Wait = False,
    timeout: Timeout = 600,
    as_json: AsJson = False,
) -> None:
    """Register the forget target in FILE."""
    document = read_file(file)
    with AdminClient.of(settings) as client:
        answer = client.register(document)
        follow(client, answer, wait, timeout, as_json)


@targets_app.command("list")
@with_settings(CLIENT_SETTINGS)
def list_targets(*, settings: Settings, as_json: AsJson = False) -> None:
    """List all forget targets."""
    with AdminClient.of(settings) as client:
        found = list(client.targets())
    columns = ("id", "status", "revision", "generation", "num_examples", "num_phrases")
    print_list(columns, found, as_json)


@targets_app.command("show")
@with_settings(CLIENT_SETTINGS)
def show_target(target_id: TargetId, *, settings: Settings) -> None:
    """Print one forget target, with what was made of it, as JSON."""
    with AdminClient.of(settings) as client:
        print_json(client.target(target_id))


@targets_app.command("phrases")
@with_settings(CLIENT_SETTINGS)
def target_phrases(
    target_id: TargetId,
    *,
    settings: Settings,
    add: Annotated[list[str], typer.Option(help="Forbid this too; repeatable.")] = [],  # noqa: B006
    strike: Annotated[list[str], typer.Option(help="Allow this; repeatable.")] = [],  # noqa: B006
    wait: Wait = False,
    timeout: Timeout = 600,
    as_json: AsJson = False,
) -> None:
    """Show what a target forbids and why, or add and strike phrases."""
    with AdminClient.of(settings) as client:
        if add or strike:
            follow(client, client.edit_phrases(target_id, add, strike), wait, timeout, as_json)
        elif as_json:
            print_json(client.phrases(target_id))
        else:
            _print_phrases(client.phrases(target_id))


@targets_app.command("preview")
@with_settings(CLIENT_SETTINGS)
def preview_target(
    file: Annotated[str, typer.Argument(help="JSON file of one target, or - for standard input.")],
    *,
    settings: Settings,
    as_json: AsJson = False,
) -> None:
    """Show what the target in FILE would forbid and find; nothing is stored."""
    document = read_file(file)
    with AdminClient.of(settings) as client:
        found = client.preview(document)
    if as_json:
        print_json(found)
        return
    _print_phrases(found["phrases"])
    for kind, bounds in found["calibration"].get("thresholds", {}).items():
        typer.echo(
            f"{kind} rows: weak from a cosine of {bounds['weak']}, "
            f"strong from {bounds['floor']} and a score of {bounds['strong']}"
        )
    for warning in found["warnings"]:
        typer.echo(f"warning: {warning}")


@targets_app.command("rm")
@with_settings(CLIENT_SETTINGS)
def remove_target(
    target_id: TargetId,
    *,
    settings: Settings,
    wait: Wait = False,
    timeout: Timeout = 600,
    as_json: AsJson = False,
) -> None:
    """Withdraw a forget target."""
    with AdminClient.of(settings) as client:
        answer = client.withdraw(target_id)
        follow(client, answer, wait, timeout, as_json)


@jobs_app.command("list")
@with_settings(CLIENT_SETTINGS)
def list_jobs(
    *,
    settings: Settings,
    limit: Annotated[int, typer.Option(help="How many.", min=1, max=1000)] = 20,
    as_json: AsJson = False,
) -> None:
    """List the newest jobs."""
    with AdminClient.of(settings) as client:
        found = client.jobs(limit)
    print_list(("id", "kind", "state", "progress", "generation", "created_at"), found, as_json)


@jobs_app.command("wait")
@with_settings(CLIENT_SETTINGS)
def wait_for_job(
    job_id: Annotated[str, typer.Argument(metavar="ID", help="The job's id.")],
    *,
    settings: Settings,
    timeout: Timeout = 600,
    as_json: AsJson = False,
) -> None:
    """Wait until a job has ended; fails if the job failed."""
    with AdminClient.of(settings) as client:
        finish(client.wait(job_id, timeout, show_progress), as_json)


@jobs_app.command("cancel")
@with_settings(CLIENT_SETTINGS)
def cancel_job(
    job_id: Annotated[str, typer.Argument(metavar="ID", help="The job's id.")],
    *,
    settings: Settings,
) -> None:
    """Cancel a training, or a change of a corpus's documents that has not begun."""
    with AdminClient.of(settings) as client:
        job = client.cancel(job_id)
    typer.echo(f"{job['id']}: {job['state']}")


def follow(
    client: AdminClient, answer: dict[str, Any], wait: bool, timeout: float, as_json: bool
) -> None:
    """Tell that a change was accepted, or wait for its job."""
    job = answer["job"]
    if wait:
        finish(client.wait(job["id"], timeout, show_progress), as_json)
    else:
        tell(answer, f"{answer['target']['id']}: accepted, job {job['id']}", as_json)


def finish(job: dict[str, Any], as_json: bool) -> None:
    """Tell how a job ended.

    Raises:
        Fail: it did not end well, or not in time.
    """
    if as_json:
        print_json(job)
    elif job["state"] == "done":
        in_force = f"in force with generation {job['generation']}"
        typer.echo(job["message"] if job["generation"] is None else in_force)
    if job["state"] != "done":
        error = job["error"] or {}
        reason = error.get("message") or job["message"] or "not finished in time"
        raise Fail(f"job {job['id']} is {job['state']}: {reason}")


def show_progress(job: dict[str, Any]) -> None:
    """Show on a terminal how far a job is."""
    if sys.stderr.isatty() and job["state"] == "running":
        line = f"{job['progress']:4.0%} {job['message']}"
        typer.echo(f"\r\x1b[K{line}", err=True, nl=False)
    elif sys.stderr.isatty():
        typer.echo("\r\x1b[K", err=True, nl=False)


def read_file(file: str) -> bytes:
    """The content of a file, or of standard input for -.

    Raises:
        Fail: it cannot be read.
    """
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise Fail(f"cannot read {file}: {error.strerror}", status=2) from None


def tell(answer: Any, line: str, as_json: bool) -> None:
    """Print an answer as JSON, or the line that says it."""
    if as_json:
        print_json(answer)
    else:
        typer.echo(line)


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _print_phrases(listed: dict[str, Any]) -> None:
    columns = ("text", "reason", "unit", "item", "benign_touched")
    print_table(columns, listed["phrases"])
    typer.echo(f"benign_touched: of {listed['benign_texts']} harmless texts")


def print_list(columns: tuple[str, ...], rows: list[dict[str, Any]], as_json: bool) -> None:
    """Print rows as JSON, or some fields of each."""
    if as_json:
        print_json(rows)
    else:
        print_table(columns, rows)


def print_table(columns: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    """Print some fields of each row."""
    table = Table(box=None)
    for column in columns:
        table.add_column(column.removeprefix("num_"), overflow="fold")
    for row in rows:
        table.add_row(*("-" if row[column] is None else str(row[column]) for column in columns))
    # Into a pipe, lines are not folded to a terminal's width.
    Console(width=None if sys.stdout.isatty() else 200).print(table)
