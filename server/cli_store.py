"""`lethegate backup`, `restore` and `encryption`: the store as a whole, from a shell."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from server.cli_admin import AsJson, tell
from server.cli_settings import Fail, with_settings
from server.errors import StartFault
from server.settings import Settings

_SETTINGS = ("state_dir", "encryption_key_file")

BackupFile = Annotated[Path, typer.Argument(metavar="FILE", help="The backup.")]

encryption_app = typer.Typer(help="Encrypt the forget set in the store with a key of yours.")


@with_settings(_SETTINGS)
def backup(file: BackupFile, *, settings: Settings, as_json: AsJson = False) -> None:
    """Back up store, corpora, assistants and admin key to a new FILE, while all runs."""
    from server.backup import back_up
    from server.database import Database
    from server.migration import require_head

    if settings.database_url is None and not (settings.state_dir / "lethegate.db").exists():
        raise Fail(f"there is no store in {settings.state_dir}")
    database = Database(settings.store_url, prepare=require_head)
    try:
        report = back_up(settings, database, file.absolute())
    finally:
        database.close()
    line = f"{file}: {report.targets} targets, {report.files} files, {report.bytes} bytes"
    tell(asdict(report), line, as_json)


@with_settings(_SETTINGS)
def restore(file: BackupFile, *, settings: Settings, as_json: AsJson = False) -> None:
    """Restore a backup into an empty state directory and an empty store of either kind."""
    from server.restore import restore as run
    from server.sealing import vault_of
    from server.state_dir import own_directory

    own_directory(settings.state_dir)
    rows = run(settings, vault_of(settings), file.absolute())
    line = f"restored {rows['targets']} targets and {rows['corpora']} corpora"
    tell(rows, line, as_json)


@encryption_app.command("new-key")
def new_key(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The key file, made if missing.")],
) -> None:
    """Put a new key first in FILE; keys that were there still open what they sealed."""
    from server.sealing import add_key

    try:
        count = add_key(file)
    except StartFault as error:
        typer.echo(f"lethegate: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"{file}: {count} {'key' if count == 1 else 'keys'}")


@encryption_app.command("rotate")
@with_settings(_SETTINGS)
def rotate(*, settings: Settings, as_json: AsJson = False) -> None:
    """Encrypt everything with the first key of the key file; the others can then be removed."""
    from server.rotation import rotate as run
    from server.sealing import vault_of

    vault = vault_of(settings)
    if vault is None:
        raise Fail("encryption_key_file is not set", status=2)
    rows = run(settings.store_url, vault)
    tell({"rows": rows}, f"{rows} rows are encrypted with the first key", as_json)
