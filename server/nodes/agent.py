"""The node's process: what the control process put in force elsewhere is put in force here.

Three threads: one waits for orders, fetches and moves the pointers of this machine; one tells the
control process who here has taken them up, one what was counted here. While it is not reached, the
node goes on with what it has. Orders of an earlier lead than one that was heard of are not obeyed,
nor is anything put in force that is earlier than what is: an old answer, a control process that led
once and does not know it, or one that was restored from a backup changes nothing here.
"""

from __future__ import annotations

import math
import os
import re
import signal
import socket
import threading
import time
import uuid
from dataclasses import replace
from importlib.metadata import version

from guard.server_life import server_pid
from server.errors import NodeFault, NotFound, Outdated, StartFault
from server.log import configure_logging, fault_fields, get_logger
from server.nodes.channels import Channel
from server.nodes.counting import Counting
from server.nodes.fetch import Fetcher
from server.nodes.link import Link, warn_of_clear_text
from server.nodes.local import Local, is_current
from server.nodes.standing import (
    NodeGate,
    Standing,
    boot_id,
    read_standing,
    write_standing,
)
from server.nodes.wire import LONGEST_WAIT_SECONDS, NodeReport, Orders, PointerOut
from server.settings import Settings
from server.state_dir import locked, own_directory

HEARTBEAT_SECONDS = 2.0
_POLL_SECONDS = 0.05
_RETRY_SECONDS = 1.0
_PARENT_POLL_SECONDS = 0.5
_PREDECESSOR_SECONDS = 30.0

log = get_logger("node")


class NodeAgent:
    """Follows for one state directory; nobody else may move its pointers."""

    def __init__(self, settings: Settings) -> None:
        """Nothing is asked yet.

        Raises:
            StartFault: there is no key, or no name for this node.
        """
        self.id = settings.node_id or _host_name()
        self._settings, self._local = settings, Local(settings)
        self._orders, self._reports = Link(settings, self.id), Link(settings, self.id)
        self._fetcher = Fetcher(settings, self._orders)
        self._gate = NodeGate(settings.state_dir, settings.node_max_lag_seconds)
        known = read_standing(settings.state_dir)
        self._standing = known or Standing(uuid.uuid4().hex)
        told = Link(settings, self.id)
        self._is_new = known is None
        instance = self._standing.instance
        self._counting = Counting(settings, self._local, told, instance, self._known_lead)
        self._changing = threading.Lock()
        self._verified: set[Channel] = set()
        # Of each thread, the class of error that it met last.
        self._problems = {"orders": "", "reports": ""}
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=work, name=name, daemon=True)
            for name, work in (("node-orders", self._follow), ("node-reports", self._tell))
        ]

    def start(self) -> None:
        """Begin in the background.

        Raises:
            OSError: the state directory cannot be written.
        """
        if self._is_new:
            self._counting.begin_anew()
        write_standing(self._settings.state_dir, self._standing, durable=True)
        for thread in self._threads:
            thread.start()
        self._counting.start()

    def leave(self) -> None:
        """Take up nothing more, and tell so if there is someone to tell."""
        self._stop.set()
        self._counting.stop()
        self._threads[1].join(LONGEST_WAIT_SECONDS)
        try:
            self._reports.report(self._report().model_copy(update={"left": True}))
        except NodeFault as fault:
            log.warning("leaving_not_told", **fault_fields(fault))

    def stop(self) -> None:
        """Leave, and wait until nothing is under way any more."""
        self.leave()
        for thread in self._threads:
            thread.join(2 * LONGEST_WAIT_SECONDS)
        self._reports.close()
        self._orders.close()

    def _follow(self) -> None:
        tag = ""
        while not self._stop.is_set():
            try:
                answer = self._orders.orders(tag, LONGEST_WAIT_SECONDS if tag else 0)
                if answer is None:
                    tag = "" if self._look_again() else tag
                    self._prune()
                    continue
                tag = ""
                self._obey(answer[0])
                tag = answer[1]
                self._problems["orders"] = ""
            except NotFound:
                # Something newer is in force by now.
                self._stop.wait(_POLL_SECONDS)
            except Exception as fault:
                self._meet("orders", fault)
                self._stop.wait(_RETRY_SECONDS)

    def _obey(self, orders: Orders) -> None:
        """Put in force here what is in force there.

        Raises:
            Outdated: it is older than what is known here; nothing is changed.
            NodeFault, NotFound, OSError: it cannot be fetched now.
        """
        self._listen(orders)
        wanted = {channel: _with_lead(orders, channel) for channel in Channel}
        for channel, pointer in wanted.items():
            self._local.check(channel, pointer)
        for channel, pointer in wanted.items():
            if pointer is not None:
                self._take_up(channel, pointer)

    def _take_up(self, channel: Channel, pointer: PointerOut) -> None:
        known = self._local.pointer(channel)
        if known == pointer and channel in self._verified:
            return
        began = time.monotonic()
        mended = self._fetcher.fetch(channel, pointer.digest)
        if known != pointer or mended:
            self._local.put(channel, pointer)
            seconds = round(time.monotonic() - began, 3)
            log.info(
                "taken_up", channel=channel.value, generation=pointer.generation, seconds=seconds
            )
        self._verified.add(channel)

    def _listen(self, orders: Orders) -> None:
        """Note the lead, and whether this node may serve.

        Raises:
            Outdated: these are orders of an earlier lead.
        """
        with self._changing:
            known = self._standing
            if orders.lead < known.lead:
                raise Outdated("these are orders of an earlier lead")
            if (orders.lead, orders.fenced) == (known.lead, known.fenced):
                return
            if orders.fenced != known.fenced:
                log.warning("fenced" if orders.fenced else "unfenced")
            self._stand(replace(known, lead=orders.lead, fenced=orders.fenced), durable=True)

    def _tell(self) -> None:
        told, told_at = None, -math.inf
        while not self._stop.wait(_POLL_SECONDS):
            try:
                report = self._report()
                now = time.monotonic()
                if report == told and now - told_at < HEARTBEAT_SECONDS:
                    continue
                orders = self._reports.report(report)
                told, told_at = report, now
                self._listen(orders)
                if all(is_current(orders, c, report.channel(c)) for c in Channel):
                    self._confirm(now)
                self._problems["reports"] = ""
            except Exception as fault:
                self._meet("reports", fault)
                self._stop.wait(_RETRY_SECONDS)

    def _report(self) -> NodeReport:
        return NodeReport(
            instance=self._standing.instance,
            version=version("lethegate"),
            lead=self._standing.lead,
            max_lag_seconds=self._settings.node_max_lag_seconds,
            refuses=not self._gate.may_serve(),
            fenced=self._standing.fenced,
            problem=self._problems["orders"],
            keys=self._local.report(Channel.KEYS),
            corpora=self._local.report(Channel.CORPORA),
            policy=self._local.report(Channel.POLICY),
        )

    def _known_lead(self) -> int:
        return self._standing.lead

    def _confirm(self, at: float) -> None:
        """At a moment, by the steady clock, all here applied what was in force."""
        with self._changing:
            known = self._standing
            current = replace(known, joined=True, current_at=at, boot=boot_id())
            self._stand(current, durable=not known.joined)

    def _stand(self, standing: Standing, *, durable: bool) -> None:
        write_standing(self._settings.state_dir, standing, durable=durable)
        self._standing = standing

    def _meet(self, thread: str, fault: Exception) -> None:
        """Note what keeps this node from following; what it has stays in force."""
        name = type(fault).__name__
        if name != self._problems[thread] and not self._stop.is_set():
            why = {"why": str(fault)} if isinstance(fault, NodeFault) else {}
            log.error("cannot_follow", doing=thread, **fault_fields(fault), **why)
        self._problems[thread] = name

    def _look_again(self) -> bool:
        """Whether a process here could not load what is in force: then its files are read again."""
        failed = set()
        for channel in Channel:
            report = self._local.report(channel)
            if any(f.failed_generation >= report.generation > 0 for f in report.followers):
                failed.add(channel)
        self._verified -= failed
        if failed:
            self._fetcher.forget_what_is_sound()
        return bool(failed)

    def _prune(self) -> None:
        corpora = self._local.pointer(Channel.CORPORA)
        report = self._local.report(Channel.CORPORA)
        behind = any(f.generation != report.generation for f in report.followers)
        if corpora is not None and not behind:
            directories = self._fetcher.directories(corpora.digest)
            self._local.prune_indexes(corpora.digest, directories)
        self._local.prune()


def run_node(settings: Settings, *, with_parent: bool = False) -> int:
    """Follow until SIGTERM or Ctrl-C; returns the exit status.

    `with_parent` ends the process when the one that started it is gone.

    Raises:
        StartFault: no control process or key is named, or the state directory cannot be used.
    """
    configure_logging(settings.log_level, settings.log_format, capture=True)
    if not settings.control_urls:
        raise StartFault("a node needs a control process: set control_url")
    own_directory(settings.state_dir)
    # The process of a server that was killed takes a moment to notice.
    patience = _PREDECESSOR_SECONDS if with_parent else 0.0
    with locked(settings.state_dir / "node.lock", patience) as holder:
        if holder is not None:
            raise StartFault(f"another node process (pid {holder or '?'}) is at work here")
        for host in warn_of_clear_text(settings.control_urls):
            log.warning("key_and_forget_text_travel_without_tls", host=host)
        agent = NodeAgent(settings)
        agent.start()
        log.info("node", node=agent.id, control=list(settings.control_urls))
        _wait_for_end(with_parent)
        agent.leave()
    return 0


def _wait_for_end(with_parent: bool) -> None:
    # The parent may have gone while this process was loading its code.
    ended, parent = threading.Event(), server_pid() or os.getppid()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: ended.set())
    while not ended.wait(_PARENT_POLL_SECONDS):
        if with_parent and os.getppid() != parent:
            log.warning("parent_is_gone")
            return


def _with_lead(orders: Orders, channel: Channel) -> PointerOut | None:
    """A channel's pointer; of one that no lead claims, as claimed by the lead that tells it."""
    pointer = orders.pointer(channel)
    if pointer is None or pointer.epoch:
        return pointer
    return pointer.model_copy(update={"epoch": orders.lead})


def _host_name() -> str:
    name = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname()).strip(".-")[:64]
    if not name:
        raise StartFault("this host has no name that can be used: set node_id")
    return name
