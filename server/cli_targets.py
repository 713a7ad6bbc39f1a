"""More of `lethegate targets`: many at once, and the revisions of one."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from server.cli_admin import (
    CLIENT_SETTINGS,
    AsJson,
    TargetId,
    Timeout,
    Wait,
    finish,
    follow,
    print_json,
    print_list,
    print_table,
    read_file,
    show_progress,
    targets_app,
)
from server.cli_settings import Fail, with_settings
from server.client import AdminClient
from server.on_conflict import OnConflict
from server.settings import Settings

LinesFile = Annotated[
    str, typer.Argument(help="JSON lines, a target each, or - for standard input.")
]
Revision = Annotated[int, typer.Argument(help="A revision's number.", min=1)]


@targets_app.command("import")
@with_settings(CLIENT_SETTINGS)
def import_targets(
    file: LinesFile,
    *,
    settings: Settings,
    on_conflict: Annotated[
        OnConflict, typer.Option(help="What becomes of a target whose id is registered.")
    ] = OnConflict.FAIL,
    wait: Wait = False,
    timeout: Timeout = 600,
    as_json: AsJson = False,
) -> None:
    """Register all targets in FILE, or none, with one job."""
    lines = read_file(file)
    with AdminClient.of(settings) as client:
        answer = client.import_targets(lines, on_conflict.value)
        if as_json and not wait:
            print_json(answer)
            return
        counts = ", ".join(
            f"{answer[name]} {name}" for name in ("registered", "replaced", "skipped")
        )
        typer.echo(counts, err=as_json)
        if answer["job"] is None:
            return
        if wait:
            finish(client.wait(answer["job"]["id"], timeout, show_progress), as_json)
        else:
            typer.echo(f"job {answer['job']['id']}")


@targets_app.command("export")
@with_settings(CLIENT_SETTINGS)
def export_targets(
    file: Annotated[str, typer.Argument(help="A new file, or - for standard output.")] = "-",
    *,
    settings: Settings,
) -> None:
    """Write all targets as JSON lines, as import takes them; a file is its owner's only."""
    with AdminClient.of(settings) as client:
        if file == "-":
            for piece in client.export_targets():
                sys.stdout.buffer.write(piece)
            return
        path = Path(file)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise Fail(f"cannot write {file}: {error.strerror}", status=2) from None
        try:
            with os.fdopen(descriptor, "wb") as out:
                out.writelines(client.export_targets())
        except BaseException:
            path.unlink(missing_ok=True)
            raise


@targets_app.command("validate")
@with_settings(CLIENT_SETTINGS)
def validate_targets(file: LinesFile, *, settings: Settings, as_json: AsJson = False) -> None:
    """Check the targets in FILE line by line; nothing is stored. Fails if one cannot be taken."""
    lines = read_file(file)
    with AdminClient.of(settings) as client:
        found = client.validate_targets(lines)
    if as_json:
        print_json(found)
    else:
        for problem in found["problems"]:
            typer.echo(f"line {problem['line']}: {problem['message']}")
        typer.echo(f"{found['targets']} targets can be taken, {found['existing']} are registered")
    if found["num_problems"]:
        raise Fail(f"{found['num_problems']} lines cannot be taken")


@targets_app.command("patch")
@with_settings(CLIENT_SETTINGS)
def patch_target(
    target_id: TargetId,
    file: Annotated[str, typer.Argument(help="JSON merge patch, or - for standard input.")],
    *,
    settings: Settings,
    wait: Wait = False,
    timeout: Timeout = 600,
    as_json: AsJson = False,
) -> None:
    """Change some fields of a target; null gives a field its default."""
    patch = read_file(file)
    with AdminClient.of(settings) as client:
        follow(client, client.patch(target_id, patch), wait, timeout, as_json)


@targets_app.command("stats")
@with_settings(CLIENT_SETTINGS)
def show_statistics(
    target_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="A target; by default all.")
    ] = None,
    *,
    settings: Settings,
    as_json: AsJson = False,
) -> None:
    """Show how often targets were detected, what followed or would have, and what one costs."""
    with AdminClient.of(settings) as client:
        if target_id is not None:
            found = client.statistics(target_id)
            if as_json:
                print_json(found)
            else:
                _print_statistics(found)
            return
        rows = [{"id": row["id"], **row["statistics"]} for row in client.targets()]
    columns = ("id", "matched", "refused", "steered", "cut", "would_refuse", "would_steer")
    print_list((*columns, "would_cut", "last_matched_at"), rows, as_json)


@targets_app.command("versions")
@with_settings(CLIENT_SETTINGS)
def list_versions(target_id: TargetId, *, settings: Settings, as_json: AsJson = False) -> None:
    """List the kept revisions of a target."""
    with AdminClient.of(settings) as client:
        found = client.versions(target_id)["versions"]
    print_list(("revision", "active", "newest", "created_at"), found, as_json)


@targets_app.command("diff")
@with_settings(CLIENT_SETTINGS)
def diff_versions(
    target_id: TargetId,
    before: Revision,
    after: Annotated[int | None, typer.Argument(help="By default the newest.", min=1)] = None,
    *,
    settings: Settings,
) -> None:
    """Print as JSON what changed from one revision to another."""
    with AdminClient.of(settings) as client:
        print_json(client.diff(target_id, before, after)["changes"])


@targets_app.command("rollback")
@with_settings(CLIENT_SETTINGS)
def roll_back(
    target_id: TargetId,
    revision: Revision,
    *,
    settings: Settings,
    wait: Wait = False,
    timeout: Timeout = 600,
    as_json: AsJson = False,
) -> None:
    """Make a kept revision of a target the newest again."""
    with AdminClient.of(settings) as client:
        follow(client, client.roll_back(target_id, revision), wait, timeout, as_json)


def _print_statistics(found: dict[str, Any]) -> None:
    """One target's statistics, a number a line."""
    rows = [
        {"about": part, "number": name.replace("_", " "), "value": value}
        for part in ("prompts", "answers", "cost")
        for name, value in found[part].items()
    ]
    print_table(("about", "number", "value"), rows)
    seen = found["last_matched_at"] or "never"
    typer.echo(f"since {found['since']}, detected last: {seen}")
