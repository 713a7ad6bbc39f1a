"""The command line: `lethegate serve`, `control`, `node`, `nodes`, `targets`, `jobs`, `keys`,
`policy`, `audit`, `corpus`, `index`, `assistant`, `bench`, `eval` and `version`.

Exit status: 0 done, 1 it failed, 2 it was called wrongly. Errors are one line on standard error.
"""

from __future__ import annotations

from importlib.metadata import version as distribution_version
from typing import Annotated

import typer

import server.cli_bench_engines
import server.cli_bench_nodes
import server.cli_bench_parts
import server.cli_targets  # noqa: F401  (these add commands to `bench_app` and `targets_app`)
from server.cli_admin import jobs_app, targets_app
from server.cli_assistant import assistant_app
from server.cli_attack import attack
from server.cli_audit import audit_app
from server.cli_bench import bench_app
from server.cli_check import check
from server.cli_corpus import corpus_app
from server.cli_eval import eval_app
from server.cli_index import index_app
from server.cli_keys import keys_app
from server.cli_nodes import nodes_app
from server.cli_policy import policy_app
from server.cli_settings import Fail, with_settings
from server.cli_store import backup, encryption_app, restore
from server.settings import Settings

app = typer.Typer(
    name="lethegate",
    help="Serve a language model as if it had never learned what was registered to be forgotten.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
# Each command group lives in a file of its own.
app.add_typer(targets_app, name="targets")
app.add_typer(jobs_app, name="jobs")
app.add_typer(keys_app, name="keys")
app.add_typer(policy_app, name="policy")
app.add_typer(audit_app, name="audit")
app.add_typer(nodes_app, name="nodes")
app.add_typer(assistant_app, name="assistant")
app.add_typer(corpus_app, name="corpus")
app.add_typer(index_app, name="index")
app.add_typer(bench_app, name="bench")
app.add_typer(eval_app, name="eval")
app.add_typer(encryption_app, name="encryption")
app.command()(attack)
app.command()(check)
app.command()(backup)
app.command()(restore)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    epilog="Every other flag goes to vLLM; what follows -- goes to it unread.",
)
@with_settings()
def serve(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Model: local path or hub name.")],
    *,
    settings: Settings,
) -> None:
    """Serve MODEL with vLLM behind the guard, with the admin API beside it."""
    if model.startswith("-"):
        raise Fail(f"MODEL comes first: lethegate serve MODEL {model} ...", status=2)
    from server.launch import serve as launch

    raise typer.Exit(launch(settings, model, list(context.args)))


@app.command()
@with_settings()
def control(
    *,
    settings: Settings,
    model: Annotated[str, typer.Option(help="The served model, for its tokenizer.")],
    tokenizer: Annotated[
        str | None, typer.Option(help="Its tokenizer, where that is not the model's own.")
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the tokenizer's own code.")
    ] = False,
    with_parent: Annotated[
        bool, typer.Option("--with-parent", help="End when the starting process is gone.")
    ] = False,
) -> None:
    """Run the control process alone: admin API, store and job worker."""
    from server.control import run_control

    raise typer.Exit(
        run_control(
            settings,
            model,
            tokenizer=tokenizer,
            trust_remote_code=trust_remote_code,
            with_parent=with_parent,
        )
    )


@app.command()
@with_settings()
def node(
    *,
    settings: Settings,
    with_parent: Annotated[
        bool, typer.Option("--with-parent", help="End when the starting process is gone.")
    ] = False,
) -> None:
    """Follow a control process on another machine, for the gateways and workers of this one."""
    from server.nodes.agent import run_node

    raise typer.Exit(run_node(settings, with_parent=with_parent))


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(f"lethegate {distribution_version('lethegate')}")


def main() -> None:
    """Entry point of the console script."""
    app()
