"""Settings as flags of a command, and errors as one line."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any

import typer

from server.errors import ServerError, SettingsError
from server.settings import CONFIG_ENV, ENV_PREFIX, SECRETS, Settings
from server.settings_sources import load_settings

Command = Callable[..., None]


class Fail(ServerError):
    """Ends a command with one line on standard error and an exit status."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


def with_settings(only: Collection[str] | None = None) -> Callable[[Command], Command]:
    """Give a command a flag for every setting (or those in `only`) and call it with `settings`.

    Secrets have no flag. A ServerError that the command raises becomes one line on standard error.
    """
    names = [
        name
        for name in Settings.model_fields
        if name not in SECRETS and (only is None or name in only)
    ]

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def wrapper(**arguments: Any) -> None:
            flags = {name: arguments.pop(name) for name in names}
            config = arguments.pop("config")
            try:
                command(settings=load_settings(flags, config=config), **arguments)
            except ServerError as error:
                _fail(error)

        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.name != "settings"]
        parameters = [*own, *map(_flag, names), _config_flag()]
        wrapper.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
        return wrapper

    return decorate


def _flag(name: str) -> inspect.Parameter:
    field = Settings.model_fields[name]
    dashed = name.replace("_", "-")
    default = "" if field.default_factory or field.default is None else str(field.default)
    shown = f" [default: {default}]" if default else ""
    help_text = f"{field.description}{shown} [{ENV_PREFIX}{name.upper()}]"
    kind: Any = str
    declaration = f"--{dashed}"
    if field.annotation is bool:
        kind, declaration = bool, f"--{dashed}/--no-{dashed}"
    option = typer.Option(declaration, help=help_text, show_default=False)
    return _parameter(name, Annotated[kind | None, option])


def _config_flag() -> inspect.Parameter:
    option = typer.Option("--config", help=f"YAML file of settings. [{CONFIG_ENV}]")
    return _parameter("config", Annotated[Path | None, option])


def _parameter(name: str, annotation: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=None, annotation=annotation)


def _fail(error: ServerError) -> None:
    typer.echo(f"lethegate: {error}", err=True)
    if isinstance(error, Fail):
        raise typer.Exit(error.status)
    raise typer.Exit(2 if isinstance(error, SettingsError) else 1)
