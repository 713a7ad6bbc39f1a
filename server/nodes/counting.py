"""What a node's gateways counted, told to the control process again and again.

Told are sums that only grow, some targets at a time: what is lost on its way is told again, and
what arrives twice, or late, changes nothing.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Collection

from server.errors import ControlUnreachable, NotFound
from server.log import fault_fields, get_logger
from server.nodes.channels import Channel
from server.nodes.link import Link
from server.nodes.local import Local
from server.nodes.wire import MAX_TOLD_TARGETS, NodeCounts
from server.settings import Settings
from server.statistics.counts import Numbers
from server.statistics.files import content_of
from server.statistics.gathered import Gathered

TELL_SECONDS = 5.0
_END_SECONDS = 10.0

log = get_logger("node")


class Counting:
    """The thread that tells.

    `instance` names this node's state directory, and so its sums; `lead` is the latest lead of the
    control process that is known here.
    """

    def __init__(
        self,
        settings: Settings,
        local: Local,
        link: Link,
        instance: str,
        lead: Callable[[], int],
    ) -> None:
        """Nothing is told yet; `link` is of this thread alone."""
        self._settings, self._local, self._link = settings, local, link
        self._instance, self._lead = instance, lead
        self._told_lead = lead()
        self._gathered = Gathered(settings.statistics)
        self._told: dict[str, Numbers] = {}
        self._told_requests: Numbers = {}
        self._standing: tuple[str, Collection[str] | None] = ("", None)
        self._problem = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="node-counts", daemon=True)

    def begin_anew(self) -> None:
        """Leave out what was counted here before this was a node: it was told elsewhere.

        Raises:
            OSError: it cannot be deleted.
        """
        self._gathered.discard()

    def start(self) -> None:
        """Begin to tell."""
        self._thread.start()

    def stop(self) -> None:
        """Tell what is left, and end."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(_END_SECONDS)

    def tell(self) -> None:
        """Tell what has changed since it was told.

        Raises:
            NodeFault: the control process is not reached, or does not take it.
            NotFound: it has not heard of this node yet, or is of an earlier version.
            OSError, ValueError: a file here cannot be read.
        """
        lead = self._lead()
        if lead != self._told_lead:
            # Its store may be an earlier one, put back.
            self._told, self._told_requests, self._told_lead = {}, {}, lead
        now = content_of(self._gathered.sum(self._targets()))
        requests, targets = now["requests"], now["targets"]
        self._told = {target: told for target, told in self._told.items() if target in targets}
        changed = [target for target in targets if targets[target] != self._told.get(target)]
        if not changed and requests == self._told_requests:
            return
        for first in range(0, max(1, len(changed)), MAX_TOLD_TARGETS):
            part = {target: targets[target] for target in changed[first : first + MAX_TOLD_TARGETS]}
            self._link.count(NodeCounts(instance=self._instance, requests=requests, targets=part))
            self._told |= part
        self._told_requests = requests

    def _run(self) -> None:
        while not self._stop.wait(TELL_SECONDS):
            self._try()
        self._try()
        self._link.close()

    def _try(self) -> None:
        try:
            self.tell()
            self._problem = ""
        except Exception as fault:
            # Another control process may answer next, from another store.
            self._told, self._told_requests = {}, {}
            name = type(fault).__name__
            if name != self._problem and not isinstance(fault, ControlUnreachable | NotFound):
                log.error("statistics_not_told", **fault_fields(fault))
            self._problem = name

    def _targets(self) -> Collection[str] | None:
        """The targets of the policy in force here; None where that is not known."""
        pointer = self._local.pointer(Channel.POLICY)
        if pointer is None:
            return None
        if pointer.digest != self._standing[0]:
            file = self._settings.snapshots / pointer.digest / "targets.json"
            try:
                ids = frozenset(rule["id"] for rule in json.loads(file.read_bytes()))
            except FileNotFoundError:
                return None
            self._standing = (pointer.digest, ids)
        return self._standing[1]
