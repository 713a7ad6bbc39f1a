"""What nodes and the control process say to each other, as JSON."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.types import StringConstraints

from server.field_types import TargetId
from server.nodes.channels import Channel
from server.statistics.counts import MOST, RequestCounts, TargetCounts

PREFIX = "/node/v1"
# Of one message about what was counted: some 200 KB.
MAX_TOLD_TARGETS = 500
LONGEST_WAIT_SECONDS = 10.0

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
NodeId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Number = Annotated[int, Field(ge=0, le=2**62)]
_Instance = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
_Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_]{0,40}$")]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True)


class PointerOut(_Message):
    """What a channel's pointer names; see `guard.follower.Active`."""

    generation: Number
    digest: Digest
    epoch: Number


class Orders(_Message):
    """What a node is to put in force, and whether it may serve.

    `lead` numbers the lead of the control process that says so; a node never goes back to an
    earlier one. A channel without a pointer has nothing in force yet.
    """

    lead: Number
    fenced: bool
    keys: PointerOut | None
    corpora: PointerOut | None
    policy: PointerOut | None

    def pointer(self, channel: Channel) -> PointerOut | None:
        """What is in force of a channel."""
        found: PointerOut | None = getattr(self, channel.value)
        return found


class FollowerReport(_Message):
    """A live gateway or worker of a node; see `guard.follower.FollowerState`."""

    kind: Literal["gateway", "worker"]
    pid: Number
    generation: Number
    digest: Annotated[str, StringConstraints(max_length=64)]
    failed_generation: Number
    error: _Word


class ChannelReport(_Message):
    """What a node has put in force of a channel, and who there has taken it up.

    `generation` is 0 before the first.
    """

    generation: Number = 0
    digest: Annotated[str, StringConstraints(max_length=64)] = ""
    epoch: Number = 0
    followers: Annotated[list[FollowerReport], Field(max_length=1000)] = []


class NodeReport(_Message):
    """How a node is.

    `instance` tells nodes of the same id apart. `lead` is the latest one that it has heard of,
    `refuses` that it answers no requests now, `fenced` that it knows of its fence, `problem` the
    class of error that keeps it from what is in force, `left` that it is ending.
    """

    instance: _Instance
    version: Annotated[str, StringConstraints(max_length=64)]
    lead: Number
    max_lag_seconds: Annotated[float, Field(ge=0, le=10**9)] = 0.0
    refuses: bool = False
    fenced: bool = False
    left: bool = False
    problem: _Word = ""
    keys: ChannelReport = ChannelReport()
    corpora: ChannelReport = ChannelReport()
    policy: ChannelReport = ChannelReport()

    def channel(self, channel: Channel) -> ChannelReport:
        """The part about a channel."""
        found: ChannelReport = getattr(self, channel.value)
        return found


_Count = (
    Annotated[int, Field(ge=0, le=MOST)]
    | Annotated[float, Field(ge=0, le=MOST, allow_inf_nan=False)]
)
_Counts = Annotated[dict[_Word, _Count], Field(max_length=64)]
_OfRequests = Annotated[_Counts, AfterValidator(RequestCounts.checked)]
_OfTarget = Annotated[_Counts, AfterValidator(TargetCounts.checked)]


class NodeCounts(_Message):
    """What a node's gateways counted since its state directory was made: of all requests, and of
    some targets (`server.statistics.counts`). It only grows.
    """

    instance: _Instance
    requests: _OfRequests
    targets: Annotated[dict[TargetId, _OfTarget], Field(max_length=MAX_TOLD_TARGETS)]


class FileOut(_Message):
    """A file that may be fetched."""

    name: str
    bytes: Number
    sha256: Digest


class Listing(_Message):
    """The files of an index or an assistant; `manifest` is the index's, as it is to be kept."""

    files: list[FileOut]
    manifest: str = ""
