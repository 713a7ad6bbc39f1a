"""The nodes: how each stands, and keeping one from serving."""

from __future__ import annotations

from starlette.responses import Response

from server.console.visit import Visit
from server.errors import Forbidden


async def show(visit: Visit) -> Response:
    """All nodes by id."""
    nodes = (await visit.api.get("nodes")).body["nodes"]
    return visit.page("nodes.html", nodes=nodes)


async def show_fence(visit: Visit) -> Response:
    """Asks whether a node is really to refuse every request."""
    return await _ask(visit, fence=True)


async def show_unfence(visit: Visit) -> Response:
    """Asks whether a node is really to serve again."""
    return await _ask(visit, fence=False)


async def fence(visit: Visit) -> Response:
    """Have a node refuse every request."""
    return await _do(visit, "fence")


async def unfence(visit: Visit) -> Response:
    """Let a node serve again."""
    return await _do(visit, "unfence")


async def _ask(visit: Visit, *, fence: bool) -> Response:
    if not visit.is_admin:
        raise Forbidden("This needs a key with the role admin.")
    node = (await visit.api.get("nodes", visit.id("node_id"))).body
    return visit.page("fence_node.html", node=node, fence=fence)


async def _do(visit: Visit, verb: str) -> Response:
    await visit.api.send("POST", "nodes", f"{visit.id('node_id')}:{verb}", body={})
    return visit.to("/console/nodes")
