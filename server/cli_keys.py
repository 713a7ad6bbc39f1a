"""`lethegate keys`: API keys from a shell."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from server.cli_admin import CLIENT_SETTINGS, AsJson, print_json, print_table, read_file, tell
from server.cli_settings import Fail, with_settings
from server.client import AdminClient
from server.settings import Settings

KeyId = Annotated[str, typer.Argument(metavar="ID", help="The key's id.")]

keys_app = typer.Typer(help="Make, list, change, rotate and revoke API keys.")


@keys_app.command("add")
@with_settings(CLIENT_SETTINGS)
def add_key(
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    *,
    settings: Settings,
    role: Annotated[str, typer.Option(help="client, auditor, admin or node.")] = "client",
    days: Annotated[
        float | None, typer.Option(help="Days until it expires; else never.", min=0)
    ] = None,
    target: Annotated[list[str], typer.Option(help="A target that applies; repeatable.")] = [],  # noqa: B006
    label: Annotated[
        list[str], typer.Option(help="KEY=VALUE that targets which apply carry; repeatable.")
    ] = [],  # noqa: B006
    tenant: Annotated[
        str | None, typer.Option(help="Of whose targets, beside everybody's; it sees no others.")
    ] = None,
    observe: Annotated[
        bool, typer.Option("--observe", help="Record what would happen, change nothing.")
    ] = False,
    rpm: Annotated[int | None, typer.Option(help="Requests a minute.", min=1)] = None,
    tpm: Annotated[int | None, typer.Option(help="Tokens a minute.", min=1)] = None,
    at_once: Annotated[int | None, typer.Option(help="Requests at once.", min=1)] = None,
    uld_weight: Annotated[
        float | None, typer.Option(help="Assistants' weight, in place of the targets'.")
    ] = None,
    uld_filter: Annotated[
        float | None, typer.Option(help="Their filter's r, in place of the targets'.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it, this once."""
    document: dict[str, Any] = {
        "name": name,
        "role": role,
        "targets": target or None,
        "labels": _labels(label) or None,
        "tenant": tenant,
        "enforcement": "observe" if observe else "enforce",
        "limits": {
            "requests_per_minute": rpm,
            "tokens_per_minute": tpm,
            "concurrent_requests": at_once,
        },
    }
    if uld_weight is not None or uld_filter is not None:
        document["uld"] = {"weight": uld_weight, "filter": uld_filter}
    if days is not None:
        document["expires_at"] = (datetime.now(UTC) + timedelta(days=days)).isoformat()
    with AdminClient.of(settings) as client:
        _show_once(client.create_key(document), as_json)


@keys_app.command("list")
@with_settings(CLIENT_SETTINGS)
def list_keys(*, settings: Settings, as_json: AsJson = False) -> None:
    """List all keys by the beginnings of their secrets."""
    with AdminClient.of(settings) as client:
        found = list(client.keys())
    if as_json:
        print_json(found)
        return
    for key in found:
        key["secret"] = ", ".join(f"{secret['prefix']}…" for secret in key["secrets"])
    print_table(("id", "name", "role", "status", "secret", "expires_at"), found)


@keys_app.command("patch")
@with_settings(CLIENT_SETTINGS)
def patch_key(
    key_id: KeyId,
    file: Annotated[str, typer.Argument(help="JSON merge patch, or - for standard input.")],
    *,
    settings: Settings,
    as_json: AsJson = False,
) -> None:
    """Change some fields of a key, {"disabled": true} say; its secret and tenant stay."""
    patch = read_file(file)
    with AdminClient.of(settings) as client:
        changed = client.patch_key(key_id, patch)
    tell(changed, f"{changed['id']}: {changed['status']}{_pending(changed)}", as_json)


@keys_app.command("rotate")
@with_settings(CLIENT_SETTINGS)
def rotate_key(
    key_id: KeyId,
    *,
    settings: Settings,
    grace: Annotated[int, typer.Option(help="Seconds that the old one goes on.", min=0)] = 86_400,
    as_json: AsJson = False,
) -> None:
    """Make a second secret for a key and print it, this once."""
    with AdminClient.of(settings) as client:
        _show_once(client.rotate_key(key_id, grace), as_json)


@keys_app.command("rm")
@with_settings(CLIENT_SETTINGS)
def remove_key(key_id: KeyId, *, settings: Settings, as_json: AsJson = False) -> None:
    """Revoke a key for good."""
    with AdminClient.of(settings) as client:
        gone = client.delete_key(key_id)
    tell(gone, f"{gone['id']}: revoked{_pending(gone)}", as_json)


def _labels(pairs: list[str]) -> dict[str, str]:
    parts = [pair.partition("=") for pair in pairs]
    if any(not equals for _, equals, _ in parts):
        raise Fail("--label takes KEY=VALUE", status=2)
    return {key: value for key, _, value in parts}


def _show_once(made: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(made)
        return
    typer.echo(
        f"{made['id']}: kept as a hash only, so this is not shown again{_pending(made)}", err=True
    )
    typer.echo(made["key"])


def _pending(answer: dict[str, Any]) -> str:
    return "" if answer["in_force"] else " (not every gateway has acknowledged it yet)"
