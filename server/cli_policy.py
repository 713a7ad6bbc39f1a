"""`lethegate policy`: which policy rules, who applies it, and which ruled before, from a shell."""

from __future__ import annotations

from typing import Annotated

import typer

from server.cli_admin import CLIENT_SETTINGS, AsJson, print_json, print_list, print_table
from server.cli_settings import with_settings
from server.client import AdminClient
from server.settings import Settings

policy_app = typer.Typer(help="Show which policy rules, and which ruled before.")


@policy_app.command("show")
@with_settings(CLIENT_SETTINGS)
def show_policy(*, settings: Settings, as_json: AsJson = False) -> None:
    """Show the policy that rules, and what every live gateway and worker has acknowledged."""
    with AdminClient.of(settings) as client:
        found = client.generation()
    if as_json:
        print_json(found)
        return
    state = "in force" if found["in_force"] else "not in force everywhere"
    targets = f"{found['num_targets']} target{'' if found['num_targets'] == 1 else 's'}"
    typer.echo(f"generation {found['generation']}: {state}, {targets}, by {found['cause']}")
    typer.echo(f"digest {found['digest']}, {found['created_at']}")
    print_table(
        ("kind", "node", "pid", "generation", "failed_generation", "error"), found["followers"]
    )


@policy_app.command("list")
@with_settings(CLIENT_SETTINGS)
def list_policies(
    *,
    settings: Settings,
    limit: Annotated[int, typer.Option(help="How many at most.", min=1, max=1000)] = 20,
    as_json: AsJson = False,
) -> None:
    """List the policies that were put in force, newest first."""
    with AdminClient.of(settings) as client:
        found = client.generations(limit)
    columns = ("generation", "num_targets", "cause", "created_at", "confirmed_at", "digest")
    print_list(columns, found, as_json)
