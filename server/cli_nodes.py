"""`lethegate nodes`: the machines that follow, from a shell."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from server.cli_admin import CLIENT_SETTINGS, AsJson, print_list, tell
from server.cli_settings import Fail, with_settings
from server.client import AdminClient
from server.settings import Settings

NodeArgument = Annotated[str, typer.Argument(metavar="ID", help="The node's id.")]
Wait = Annotated[float, typer.Option(help="Longest wait until it says that it refuses, in s.")]

nodes_app = typer.Typer(help="List the nodes, and keep one from serving.")


@nodes_app.command("list")
@with_settings(CLIENT_SETTINGS)
def list_nodes(*, settings: Settings, as_json: AsJson = False) -> None:
    """List all nodes, how they stand and how far they are behind."""
    with AdminClient.of(settings) as client:
        found = client.nodes()
    columns = ("id", "state", "generation", "lag", "num_gateways", "num_workers", "seen_seconds")
    print_list((*columns, "refuses", "problem"), found, as_json)


@nodes_app.command("fence")
@with_settings(CLIENT_SETTINGS)
def fence_node(
    node_id: NodeArgument, *, settings: Settings, wait: Wait = 10.0, as_json: AsJson = False
) -> None:
    """Have a node refuse every request; fails if it does not say so in time."""
    with AdminClient.of(settings) as client:
        node = client.fence_node(node_id)
        end = time.monotonic() + wait
        while not node["refuses"] and time.monotonic() < end:
            time.sleep(0.1)
            node = next((n for n in client.nodes() if n["id"] == node_id), node)
    _tell_standing(node, as_json)
    if not node["refuses"]:
        raise Fail(f"{node_id} does not say that it refuses: it may be cut off and go on serving")


@nodes_app.command("unfence")
@with_settings(CLIENT_SETTINGS)
def unfence_node(node_id: NodeArgument, *, settings: Settings, as_json: AsJson = False) -> None:
    """Let a node serve again."""
    with AdminClient.of(settings) as client:
        _tell_standing(client.unfence_node(node_id), as_json)


@nodes_app.command("forget")
@with_settings(CLIENT_SETTINGS)
def forget_node(node_id: NodeArgument, *, settings: Settings, as_json: AsJson = False) -> None:
    """Forget a node that is gone."""
    with AdminClient.of(settings) as client:
        gone = client.forget_node(node_id)
    tell(gone, f"{gone['id']}: forgotten", as_json)


def _tell_standing(node: dict[str, Any], as_json: bool) -> None:
    refuses = "refuses" if node["refuses"] else "does not refuse yet"
    tell(node, f"{node['id']}: {node['state']}, {refuses}", as_json)
