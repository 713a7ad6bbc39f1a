"""`/admin/v1/nodes`: which nodes there are, how they stand, and keeping one from serving."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel

from server.access import Admin, Auditor
from server.nodes.fleet import Fleet, NodeView
from server.parameters import PathId
from server.records import utc


class NodeOut(BaseModel):
    """A node.

    `state`: `current` or `behind` of the policy in force by `lag` generations; `silent` when it has
    not reported for `seen_seconds`; `left` when it has ended; `fenced`. `refuses` is what it said
    itself, of a fenced node since it knows of its fence: of one that says nothing nobody knows.
    `holds_up`: a new policy waits for it.
    """

    id: str
    state: str
    generation: int | None
    digest: str | None
    lag: int
    refuses: bool
    holds_up: bool
    problem: str | None
    num_gateways: int
    num_workers: int
    max_lag_seconds: float
    version: str
    seen_seconds: float
    seen_at: datetime
    created_at: datetime

    @classmethod
    def of(cls, view: NodeView) -> NodeOut:
        """From the fleet."""
        report = view.record.report
        kinds = [follower.kind for follower in report.policy.followers]
        return cls(
            id=view.record.id,
            state=view.state.value,
            generation=report.policy.generation or None,
            digest=report.policy.digest or None,
            lag=view.lag,
            refuses=report.refuses and (report.fenced or not view.record.fenced),
            holds_up=view.holds_up,
            problem=report.problem or None,
            num_gateways=kinds.count("gateway"),
            num_workers=kinds.count("worker"),
            max_lag_seconds=report.max_lag_seconds,
            version=report.version,
            seen_seconds=round(view.seen_seconds, 3),
            seen_at=utc(view.record.seen_at),
            created_at=utc(view.record.created_at),
        )


class NodeList(BaseModel):
    """All nodes, by id."""

    nodes: list[NodeOut]


def _fleet(request: Request) -> Fleet:
    fleet: Fleet = request.app.state.control.nodes.fleet
    fleet.require_lead()
    return fleet


Here = Annotated[Fleet, Depends(_fleet)]

nodes_router = APIRouter(tags=["nodes"])


@nodes_router.get("/nodes")
def list_nodes(here: Here, role: Auditor) -> NodeList:
    """List all nodes."""
    return NodeList(nodes=[NodeOut.of(view) for view in here.all()])


@nodes_router.get("/nodes/{node_id:id}")
def get_node(node_id: PathId, here: Here, role: Auditor) -> NodeOut:
    """One node."""
    return NodeOut.of(here.view(node_id))


@nodes_router.post("/nodes/{node_id:id}:fence")
def fence_node(node_id: PathId, here: Here, role: Admin) -> NodeOut:
    """Have a node refuse every request, until it is unfenced; no change waits for it."""
    return NodeOut.of(here.fence(node_id, True))


@nodes_router.post("/nodes/{node_id:id}:unfence")
def unfence_node(node_id: PathId, here: Here, role: Admin) -> NodeOut:
    """Let a node serve again."""
    return NodeOut.of(here.fence(node_id, False))


@nodes_router.delete("/nodes/{node_id:id}")
def forget_node(node_id: PathId, here: Here, role: Admin) -> NodeOut:
    """Forget a node that is gone; one that lives comes again as a new one."""
    gone = NodeOut.of(here.view(node_id))
    here.forget(node_id)
    return gone
