"""`/node/v1` for nodes: what is in force, its files, and their reports.

Only keys with the role `node` open it, and they open nothing else.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse

from server.auth import Caller, Role
from server.nodes.channels import Channel
from server.nodes.fleet import Fleet
from server.nodes.offer import Offer
from server.nodes.wire import (
    LONGEST_WAIT_SECONDS,
    PREFIX,
    Listing,
    NodeCounts,
    NodeId,
    NodeReport,
    Orders,
)
from server.statistics.files import tallied_of
from server.statistics.keeper import StatisticsKeeper

_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Nodes:
    """What these handlers work on; nobody is kept waiting once the process `is_ending`."""

    fleet: Fleet
    offer: Offer
    statistics: StatisticsKeeper
    is_ending: Callable[[], bool] = lambda: False

    def orders(self, node_id: str) -> Orders:
        """What a node is to do now."""
        return Orders(
            lead=self.fleet.lead,
            fenced=self.fleet.is_fenced(node_id),
            keys=self.offer.pointer(Channel.KEYS),
            corpora=self.offer.pointer(Channel.CORPORA),
            policy=self.offer.pointer(Channel.POLICY),
        )

    async def changed(self, node_id: str, etag: str, seconds: float) -> tuple[Orders, str]:
        """The orders and their tag, once they are others than `etag` or the time is over."""
        end = time.monotonic() + seconds
        while True:
            before = (self.offer.changed(), self.fleet.is_fenced(node_id))
            orders = await run_in_threadpool(self.orders, node_id)
            tag = _tag(orders)
            if tag != etag:
                return orders, tag
            while before == (self.offer.changed(), self.fleet.is_fenced(node_id)):
                if time.monotonic() >= end or self.is_ending():
                    return orders, tag
                await asyncio.sleep(_POLL_SECONDS)


def is_for_nodes(path: str) -> bool:
    """Whether a path is one of these."""
    return path.startswith(f"{PREFIX}/")


def _nodes(request: Request) -> Nodes:
    nodes: Nodes = request.app.state.control.nodes
    nodes.fleet.require_lead()
    return nodes


def _node(request: Request) -> Caller:
    caller: Caller = request.app.state.control.keyring.require_exactly(
        request.headers.get("authorization"), Role.NODE
    )
    return caller


Node = Annotated[Caller, Depends(_node)]
Here = Annotated[Nodes, Depends(_nodes)]
DigestPath = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]
NamePath = Annotated[str, Path(max_length=128)]

# Between processes of one version, so in no document for operators.
node_router = APIRouter(prefix=PREFIX, include_in_schema=False)


@node_router.get("/nodes/{node_id}/orders")
async def get_orders(
    node_id: NodeId,
    caller: Node,
    here: Here,
    response: Response,
    if_none_match: Annotated[str | None, Header()] = None,
    wait: Annotated[float, Query(ge=0, le=LONGEST_WAIT_SECONDS)] = 0.0,
) -> Orders:
    """What is in force; with `If-None-Match` and `wait`, as soon as it is something else."""
    orders, tag = await here.changed(node_id, if_none_match or "", wait)
    here.fleet.require_lead()
    response.headers["etag"] = tag
    response.headers["cache-control"] = "no-store"
    if tag == if_none_match:
        response.status_code = 304
    return orders


@node_router.put("/nodes/{node_id}")
def put_report(node_id: NodeId, report: NodeReport, caller: Node, here: Here) -> Orders:
    """Say how a node is; the answer is what it is to do."""
    here.fleet.hear(node_id, caller.id, report)
    return here.orders(node_id)


@node_router.put("/nodes/{node_id}/counts")
def put_counts(node_id: NodeId, counts: NodeCounts, caller: Node, here: Here) -> None:
    """Say what a node's gateways have counted."""
    here.fleet.admit_counts(node_id, caller.id, counts.instance)
    here.statistics.hear(counts.instance, tallied_of(counts.model_dump()))


@node_router.get("/lists/{channel}/{digest}")
def get_list(channel: Channel, digest: DigestPath, caller: Node, here: Here) -> FileResponse:
    """The manifest of the policy in force, or the list of keys or corpora."""
    return _file(here.offer.list_of(channel, digest))


@node_router.get("/snapshots/{digest}/{name}")
def get_snapshot_file(digest: DigestPath, name: NamePath, caller: Node, here: Here) -> FileResponse:
    """A file of the policy in force; takes `Range`."""
    return _file(here.offer.snapshot_file(digest, name))


@node_router.get("/assistants/{digest}")
def list_assistant(digest: DigestPath, caller: Node, here: Here) -> Listing:
    """The files of an assistant that the policy in force names."""
    return here.offer.assistant(digest)


@node_router.get("/assistants/{digest}/{name}")
def get_assistant_file(
    digest: DigestPath, name: NamePath, caller: Node, here: Here
) -> FileResponse:
    """One of them; takes `Range`."""
    return _file(here.offer.assistant_file(digest, name))


@node_router.get("/indexes/{directory}")
def list_index(directory: NamePath, caller: Node, here: Here) -> Listing:
    """The state of an index of the corpora in force."""
    return here.offer.index(directory)


@node_router.get("/indexes/{directory}/{name}")
def get_segment(directory: NamePath, name: NamePath, caller: Node, here: Here) -> FileResponse:
    """A segment of it; takes `Range`."""
    return _file(here.offer.index_file(directory, name))


def _file(path: FilePath) -> FileResponse:
    """A file as it is; forget text is kept by nobody on the way."""
    headers = {"cache-control": "no-store"}
    return FileResponse(path, media_type="application/octet-stream", headers=headers)


def _tag(orders: Orders) -> str:
    return f'"{hashlib.sha256(orders.model_dump_json().encode()).hexdigest()[:32]}"'
