"""The page of all commands, from the command line itself."""

from __future__ import annotations

from collections.abc import Iterator

import typer.core
from typer.main import get_command

from server.cli import app
from server.settings import Settings

_HEAD = """# Command line

Made from the command line itself; `lethegate COMMAND --help` says the same. Exit status: 0 done,
1 it failed, 2 it was called wrongly; errors are one line on standard error. Every command that uses
[settings](../../../README.md#settings) takes those flags too.
"""
SETTING_FLAGS = {f"--{name.replace('_', '-')}" for name in Settings.model_fields} | {"--config"}


def page() -> str:
    """The whole page, in Markdown: a heading for each command."""
    parts = [_HEAD]
    for name, command in all_commands():
        parts += [f"## lethegate {name}", _paragraph(command.help), *_parameters(command)]
        parts += [_paragraph(command.epilog)] if command.epilog else []
    return "\n\n".join(parts) + "\n"


def all_commands() -> Iterator[tuple[str, typer.core.TyperCommand]]:
    """Every command by its name with the group's, like `targets add`, in alphabetical order."""
    yield from sorted(_below(get_command(app), ""), key=lambda found: found[0])


def _below(command: object, name: str) -> Iterator[tuple[str, typer.core.TyperCommand]]:
    if isinstance(command, typer.core.TyperGroup):
        for each, below in command.commands.items():
            yield from _below(below, f"{name} {each}".strip())
    elif isinstance(command, typer.core.TyperCommand):
        yield name, command


def _parameters(command: typer.core.TyperCommand) -> list[str]:
    """A table of arguments and flags, less those that are settings."""
    rows = []
    for parameter in command.params:
        if SETTING_FLAGS.intersection(parameter.opts):
            continue
        names = [*parameter.opts, *parameter.secondary_opts]
        shown = ", ".join(f"`{name}`" for name in names)
        if isinstance(parameter, typer.core.TyperArgument):
            shown = f"`{parameter.metavar or (parameter.name or '').upper()}`"
        rows.append(f"| {shown} | {_paragraph(getattr(parameter, 'help', None))} |")
    return ["\n".join(["| argument | meaning |", "|---|---|", *rows])] if rows else []


def _paragraph(text: str | None) -> str:
    return " ".join((text or "").replace("|", "\\|").replace("*", "\\*").split())
