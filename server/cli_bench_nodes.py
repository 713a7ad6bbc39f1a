"""`lethegate bench nodes`."""

from __future__ import annotations

from typing import Annotated

import typer

from server.cli_bench import JsonFile, bench_app, one_line_errors, run


@bench_app.command()
def nodes(
    json_file: JsonFile,
    nodes: Annotated[int, typer.Option(help="How many nodes.", min=1)] = 3,
    phrases: Annotated[int, typer.Option(help="Phrases of the policy.", min=10)] = 10_000,
    repetitions: Annotated[int, typer.Option(help="Policies to distribute.", min=3)] = 5,
) -> None:
    """Time from putting a policy in force until every process of every node applies it."""
    with one_line_errors():
        from server.bench.nodes import NodesPlan, bench_nodes

        plan = NodesPlan(phrases, nodes, repetitions)
        run(json_file, lambda progress: bench_nodes(plan, progress))
