"""`lethegate check`: what the guard decides about a text, from a shell."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import httpx
import typer

from server.auth import admin_key
from server.cli_admin import AsJson, print_json, print_table
from server.cli_settings import Fail, with_settings
from server.settings import Settings


@with_settings(("state_dir", "host", "port"))
def check(
    text: Annotated[str, typer.Argument(help="A prompt, or - for standard input.")],
    *,
    settings: Settings,
    as_json: AsJson = False,
) -> None:
    """Show what the guard decides about a prompt and why; nothing is generated."""
    if settings.admin_key is None and not settings.admin_key_file.exists():
        raise Fail("no admin key: set LETHEGATE_ADMIN_KEY, or start the server that makes one")
    found = _ask(settings, sys.stdin.read() if text == "-" else text)
    if as_json:
        print_json(found)
        return
    typer.echo(f"{found['verdict']} (generation {found['generation']})")
    if found["detections"]:
        columns = ("target", "layer", "strength", "score", "threshold", "items", "enforced")
        print_table(columns, found["detections"])


def _ask(settings: Settings, text: str) -> dict[str, Any]:
    headers = {"authorization": f"Bearer {admin_key(settings)}"}
    try:
        answer = httpx.post(
            f"{settings.endpoint_url}/v1/checks",
            json={"text": text},
            headers=headers,
            timeout=settings.screen_timeout_seconds + 10,
            trust_env=False,
        )
        body: dict[str, Any] = answer.json()
    except httpx.HTTPError as error:
        raise Fail(f"cannot reach {settings.endpoint_url}: {error}") from None
    except ValueError:
        raise Fail("the server's answer is not JSON") from None
    if answer.is_error:
        told = body.get("error") or {}
        raise Fail(f"{told.get('message')} ({told.get('code')})")
    return body
