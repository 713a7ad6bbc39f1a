"""The nodes as the leading control process sees them: who lives, who is behind, who is waited for.

Times are this process's own and steady: no node's clock is asked. A node that says nothing for
`LIVE_SECONDS` is silent. What it may do then decides whether a new policy waits for it:

* one that is fenced, or has left, is not waited for;
* one with a longest lag of its own stops serving when that is over, and is waited for until then;
* one without goes on under what it has, and is not waited for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from guard.follower import Active
from server.errors import Conflict, Forbidden, NotReady, StoreFault
from server.log import fault_fields, get_logger
from server.metrics.nodes import NodeFacts
from server.nodes.channels import Channel
from server.nodes.store import NodeRecord, NodeStore, unknown_node
from server.nodes.wire import ChannelReport, NodeReport
from server.policy import FollowerStatus

# Nodes report every two seconds, and at once when anything changes.
LIVE_SECONDS = 10.0
# How often the store is told that a node of which nothing new is known still lives.
SAVE_SECONDS = 5.0
# Nodes that the store saw so shortly before the lead was taken are given time to come again.
_RECENT_SECONDS = 60.0
# A node's clock may run this much slower, and its last report may have taken so long.
_SLOWER, _UNDER_WAY_SECONDS = 1.02, 5.0
# Each state directory that counts under a node's id takes rows of the store, for a day at least.
_MOST_COUNTING, _COUNTING_SECONDS = 8, 24 * 3600.0

log = get_logger("nodes")


class NodeState(StrEnum):
    """How a node stands."""

    CURRENT = "current"
    BEHIND = "behind"
    SILENT = "silent"
    LEFT = "left"
    FENCED = "fenced"


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node now. `lag` is in generations of the policy, `seen_seconds` since its last report.

    `holds_up`: a new policy waits for it.
    """

    record: NodeRecord
    state: NodeState
    lag: int
    seen_seconds: float
    holds_up: bool


@dataclass(slots=True)
class _Known:
    record: NodeRecord
    heard_at: float
    saved_at: float


class Fleet:
    """All nodes. Empty until this process leads.

    Args:
        store: keeps them over restarts and changes of the lead.
        active: what is in force of a channel.
        clock: steady seconds.
    """

    def __init__(
        self,
        store: NodeStore,
        active: Callable[[Channel], Active | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._active, self._clock = store, active, clock
        self._known: dict[str, _Known] = {}
        # Of every node, which instances counted under its id, and when they told so last.
        self._counting: dict[str, dict[str, float]] = {}
        self._lock = threading.Lock()
        self.lead = 0

    def begin(self, lead: int) -> None:
        """Take over what the store knows: this process leads."""
        now, wall = self._clock(), time.time()
        with self._lock:
            for record in self._store.all():
                ago = max(0.0, wall - record.seen_at)
                recent = ago < _RECENT_SECONDS + record.report.max_lag_seconds
                heard_at = now if recent else now - ago
                self._known[record.id] = _Known(record, heard_at, now)
            self.lead = lead

    def require_lead(self) -> None:
        """Refuse nodes while another process leads, or none.

        Raises:
            NotReady: this process does not lead.
        """
        if not self.lead:
            raise NotReady("This control process does not lead.")

    def hear(self, node_id: str, key_id: str, report: NodeReport) -> None:
        """Take a node's report.

        Raises:
            Forbidden: the id is that of a node with another key.
            Conflict: another live node calls itself so, or there are too many.
        """
        with self._lock:
            now = self._clock()
            known = self._known.get(node_id)
            record = self._next(known, node_id, key_id, report, now)
            news = known is None or known.record.report != report
            if known is None or news or now - known.saved_at >= SAVE_SECONDS:
                saved_at = self._save(record, known, now)
            else:
                saved_at = known.saved_at
            self._known[node_id] = _Known(record, now, saved_at)
        if known is None:
            log.info("node_joined", node=node_id)
        if news and report.lead > self.lead:
            log.error("node_is_ahead_of_this_control_process", node=node_id)

    def admit_counts(self, node_id: str, key_id: str, instance: str) -> None:
        """Refuse what another counted than who was heard last by this id.

        Raises:
            NotFound: there is no such node.
            Forbidden: it is that of another key.
            Conflict: another node calls itself so, or too many did within a day.
        """
        known = self._known.get(node_id)
        if known is None:
            raise unknown_node()
        if known.record.key_id != key_id:
            raise Forbidden("This node's id belongs to another key.")
        if known.record.report.instance != instance:
            raise Conflict("Another node has this id.")
        with self._lock:
            told_at, now = self._counting.setdefault(node_id, {}), self._clock()
            recent = {i: at for i, at in told_at.items() if now - at < _COUNTING_SECONDS}
            if instance not in recent and len(recent) >= _MOST_COUNTING:
                raise Conflict("This node's state directory was made anew too often today.")
            self._counting[node_id] = {**recent, instance: now}

    def instances(self) -> set[str]:
        """Of every node, which of those that call themselves so was heard last."""
        return {known.record.report.instance for known in [*self._known.values()]}

    def is_fenced(self, node_id: str) -> bool:
        """Whether a node must not serve."""
        known = self._known.get(node_id)
        return known is not None and known.record.fenced

    def fence(self, node_id: str, fenced: bool) -> NodeView:
        """Keep a node from serving, or let it serve again.

        Raises:
            NotFound: there is no such node.
        """
        with self._lock:
            self._store.set_fenced(node_id, fenced)
            known = self._known[node_id]
            # What it said before says nothing about what it does now.
            report = known.record.report.model_copy(update={"refuses": False, "fenced": False})
            known.record = replace(known.record, fenced=fenced, report=report)
        log.warning("node_fenced" if fenced else "node_unfenced", node=node_id)
        return self.view(node_id)

    def forget(self, node_id: str) -> None:
        """Forget a node; one that still lives comes again as a new one.

        Raises:
            NotFound: there is no such node.
            Conflict: it is fenced, and would come again unfenced.
        """
        with self._lock:
            if self.is_fenced(node_id) and self._view(self._known[node_id]).seen_seconds < (
                LIVE_SECONDS
            ):
                raise Conflict("The node is fenced and lives: stop it first.")
            self._store.delete(node_id)
            self._known.pop(node_id, None)
            self._counting.pop(node_id, None)

    def view(self, node_id: str) -> NodeView:
        """One node.

        Raises:
            NotFound: there is no such node.
        """
        known = self._known.get(node_id)
        if known is None:
            raise unknown_node()
        return self._view(known)

    def all(self) -> list[NodeView]:
        """Every node, by id."""
        return [self._view(known) for _, known in sorted([*self._known.items()])]

    def followers(self, channel: Channel) -> list[FollowerStatus]:
        """Those of nodes whom a change of this channel waits for, and the nodes themselves."""
        active, found = self._active(channel), list[FollowerStatus]()
        for known in [*self._known.values()]:
            if not self._holds_up(known):
                continue
            report = known.record.report.channel(channel)
            found.append(_as_follower(known.record.id, report, active))
            if self._age(known) <= LIVE_SECONDS:
                found += _followers(known.record.id, report, active)
        return found

    def facts(self) -> list[NodeFacts]:
        """What is measured of every node that has not left."""
        return [
            NodeFacts(view.record.id, view.lag, view.seen_seconds, view.state.value)
            for view in self.all()
            if view.state is not NodeState.LEFT
        ]

    def all_apply(self) -> bool:
        """Whether every node that may serve applies the policy in force, as far as is known."""
        return all(
            view.state in (NodeState.CURRENT, NodeState.FENCED, NodeState.LEFT)
            or (view.state is NodeState.SILENT and (view.lag == 0 or _has_stopped(view)))
            for view in self.all()
        )

    def _save(self, record: NodeRecord, known: _Known | None, now: float) -> float:
        """Save what a node said; when it was saved last. It is alive while the store is away, too.

        Raises:
            StoreFault: the store is away, and does not know the node.
        """
        try:
            self._store.save(record)
        except StoreFault as error:
            if known is None:
                raise
            log.error("node_not_saved", node=record.id, **fault_fields(error))
            return known.saved_at
        return now

    def _next(
        self, known: _Known | None, node_id: str, key_id: str, report: NodeReport, now: float
    ) -> NodeRecord:
        wall = time.time()
        if known is None:
            return NodeRecord(node_id, key_id, False, report, wall, wall)
        before = known.record
        if before.key_id != key_id:
            raise Forbidden("This node's id belongs to another key.")
        other = before.report.instance != report.instance
        if other and not before.report.left and now - known.heard_at <= LIVE_SECONDS:
            raise Conflict("Another live node has this id.")
        return replace(before, report=report, seen_at=wall)

    def _age(self, known: _Known) -> float:
        return max(0.0, self._clock() - known.heard_at)

    def _holds_up(self, known: _Known) -> bool:
        report = known.record.report
        if known.record.fenced or report.left:
            return False
        longest = report.max_lag_seconds
        until = longest * _SLOWER + _UNDER_WAY_SECONDS if longest else 0.0
        return self._age(known) <= max(LIVE_SECONDS, until)

    def _view(self, known: _Known) -> NodeView:
        age, record = self._age(known), known.record
        lag = self._lag(record.report)
        if record.fenced:
            state = NodeState.FENCED
        elif record.report.left:
            state = NodeState.LEFT
        elif age > LIVE_SECONDS:
            state = NodeState.SILENT
        else:
            state = NodeState.BEHIND if lag else NodeState.CURRENT
        return NodeView(record, state, lag, age, self._holds_up(known))

    def _lag(self, report: NodeReport) -> int:
        """How many generations the last of the node's processes is behind."""
        active = self._active(Channel.POLICY)
        if active is None:
            return 0
        channel = report.policy
        applied = [_applied(channel.generation, channel.digest, active)]
        applied += [_applied(f.generation, f.digest, active) for f in channel.followers]
        return active.generation - min(applied)


def _has_stopped(view: NodeView) -> bool:
    """Whether a silent node refuses to serve by now, by its own longest lag."""
    return view.record.report.max_lag_seconds > 0 and not view.holds_up


def _applied(generation: int, digest: str, active: Active | None) -> int:
    """The generation that was put in force, as far as it is one of this control process.

    Whoever followed another one, from which this store was restored, may name later ones.
    """
    if active is None or generation < active.generation:
        return generation
    return active.generation if digest == active.digest else 0


def _as_follower(node_id: str, report: ChannelReport, active: Active | None) -> FollowerStatus:
    generation = _applied(report.generation, report.digest, active)
    return FollowerStatus("node", 0, generation, report.digest or None, node=node_id)


def _followers(node_id: str, report: ChannelReport, active: Active | None) -> list[FollowerStatus]:
    return [
        FollowerStatus(
            kind=follower.kind,
            pid=follower.pid,
            generation=_applied(follower.generation, follower.digest, active) or None,
            digest=follower.digest or None,
            failed_generation=follower.failed_generation or None,
            error=follower.error or None,
            node=node_id,
        )
        for follower in report.followers
    ]
