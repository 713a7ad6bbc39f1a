"""Whether a node may serve: a file that its agent writes and its gateways look at.

Fails closed: a node that never was current, that is fenced, or that has not known for its longest
lag that it is current answers no request. The last of these ends by itself when the control process
is reached again. Times are of the machine's steady clock, which all its processes share; after the
machine was started anew nothing is known.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from server.errors import NodeBehind, NodeFenced

_FILE = "node.json"
_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Standing:
    """How a node stands.

    `joined`: it was current once. `current_at` is when it was known last to be, in seconds of the
    steady clock of the machine's start `boot`. `lead` is the latest that it has heard of.
    """

    instance: str
    joined: bool = False
    fenced: bool = False
    lead: int = 0
    current_at: float | None = None
    boot: str = ""

    def lag_seconds(self) -> float:
        """How long it has not been known to be current; infinite if it was not since the start."""
        if self.current_at is None or self.boot != boot_id():
            return float("inf")
        return max(0.0, time.monotonic() - self.current_at)


def boot_id() -> str:
    """Names this start of the machine."""
    try:
        return _BOOT.read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"


def read_standing(state_dir: Path) -> Standing | None:
    """The node's standing; None where no agent has written one that can be read."""
    try:
        return _parsed((state_dir / _FILE).read_bytes())
    except OSError:
        return None


def write_standing(state_dir: Path, standing: Standing, *, durable: bool) -> None:
    """Tell the gateways; `durable` where a restart must find it."""
    draft = state_dir / f".{_FILE}.{uuid.uuid4().hex}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(asdict(standing), file)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    draft.rename(state_dir / _FILE)


def _parsed(content: bytes) -> Standing | None:
    try:
        return Standing(**json.loads(content))
    except (ValueError, TypeError):
        return None


class NodeGate:
    """A gateway's look at it, before every request.

    The file is read each time, a few microseconds: what tells files apart without reading them, its
    number and time, may be the same for two that were written shortly after each other.
    """

    def __init__(self, state_dir: Path, max_lag_seconds: float) -> None:
        self._state_dir, self._longest = state_dir, max_lag_seconds
        self._seen = b""
        self._standing: Standing | None = None

    def check(self) -> None:
        """Refuse where the node may not serve.

        Raises:
            NodeFenced: the operator fenced it.
            NodeBehind: it never was current, or not for longer than its longest lag.
        """
        standing = self._current()
        if standing is not None and standing.fenced:
            raise NodeFenced()
        if standing is None or not standing.joined or self._is_late(standing):
            raise NodeBehind()

    def may_serve(self) -> bool:
        """Whether `check` lets a request through."""
        try:
            self.check()
        except (NodeFenced, NodeBehind):
            return False
        return True

    def lag_seconds(self) -> float:
        """How long the node has not been known to be current; infinite before the first time."""
        standing = self._current()
        return float("inf") if standing is None else standing.lag_seconds()

    def _is_late(self, standing: Standing) -> bool:
        return self._longest > 0 and standing.lag_seconds() > self._longest

    def _current(self) -> Standing | None:
        try:
            seen = (self._state_dir / _FILE).read_bytes()
        except OSError:
            return None
        if seen != self._seen:
            self._standing, self._seen = _parsed(seen), seen
        return self._standing
