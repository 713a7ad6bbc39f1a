"""`lethegate audit`: is the record of this machine whole, and what does it say?"""

from __future__ import annotations

import json
from typing import Annotated

import typer

from server.cli_settings import Fail, with_settings
from server.settings import Settings

audit_app = typer.Typer(help="Check and read the audit of this machine.")


@audit_app.command("verify")
@with_settings(("state_dir",))
def verify_audit(
    *,
    settings: Settings,
    head: Annotated[
        str | None, typer.Option(help="A hash that was printed before and must still be there.")
    ] = None,
) -> None:
    """Check every hash and link; prints the last record's hash, to be kept elsewhere."""
    from server.audit.opening import audit_files
    from server.audit.verify import verify

    found = verify(audit_files(settings), head)
    if found.fault is not None:
        raise Fail(f"the audit is not whole: {found.fault}")
    typer.echo(f"{found.records} records, {found.first} to {found.head.sequence}: whole")
    typer.echo(f"head {found.head.hash}")


@audit_app.command("tail")
@with_settings(("state_dir",))
def tail_audit(
    *,
    settings: Settings,
    number: Annotated[int, typer.Option("-n", help="How many.", min=1)] = 20,
    event: Annotated[
        str | None, typer.Option(help="Only admin, decision, block or records_lost.")
    ] = None,
) -> None:
    """Print the newest records as JSON lines, oldest first."""
    from server.audit.opening import audit_files

    for record in reversed(audit_files(settings).newest(number, None, event)):
        typer.echo(json.dumps(record))
