"""The thread of the leading control process that brings gateways' counters into the store.

Those of this machine are read from their files; nodes tell those of theirs.

A file that has not changed is not read. Of a gateway that has ended the last numbers are stored
first, then its file is deleted, and only then are they added to those of others that ended: where
this process dies in between, nothing is lost and nothing counted twice.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from server.errors import LeaseLost
from server.log import fault_fields, get_logger
from server.statistics.counts import TargetCounts
from server.statistics.files import Source, sources
from server.statistics.store import StatisticsStore
from server.statistics.tally import Tallied

TAKE_SECONDS = 2.0
_NODES_SECONDS = 3600.0

log = get_logger("statistics")


class StatisticsKeeper:
    """Takes what gateways counted.

    With `tells_all` it also has the sums of all targets at hand, for the metrics. `nodes` tells the
    names that the known nodes count under.
    """

    def __init__(
        self,
        store: StatisticsStore,
        directory: Path,
        *,
        tells_all: bool = False,
        seconds: float = TAKE_SECONDS,
        nodes: Callable[[], Collection[str]] = tuple,
    ) -> None:
        self._store, self._directory, self._seconds = store, directory, seconds
        self._tells_all = tells_all
        self._sums: Mapping[str, TargetCounts] = {}
        self._taken: dict[str, tuple[int, int]] = {}
        self._nodes, self._nodes_at = nodes, -math.inf
        # Of nodes; at the start of all.
        self._has_news = True
        self._failing = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="statistics", daemon=True)

    def start(self) -> None:
        """Begin to take."""
        self._thread.start()

    def stop(self) -> None:
        """Take what there is now, and end."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def sums(self) -> Mapping[str, TargetCounts]:
        """All targets' numbers as they were taken last; nothing without `tells_all`."""
        return self._sums

    def hear(self, instance: str, tallied: Tallied) -> None:
        """Take what a node told; see `StatisticsStore.hear`."""
        self._store.hear(instance, tallied)
        self._has_news = True

    def take(self) -> None:
        """Bring every file that has changed into the store.

        Raises:
            StoreFault: the store cannot be written.
            LeaseLost: another control process does this now.
            OSError: a file cannot be read.
        """
        running, changed = set(), self._has_news
        self._has_news = False
        for source in sources(self._directory):
            changed = self._take(source) or changed
            if source.has_ended:
                source.delete()
                self._taken.pop(source.name, None)
            else:
                running.add(source.name)
        if time.monotonic() - self._nodes_at > _NODES_SECONDS:
            self._store.close_nodes(self._nodes())
            self._nodes_at = time.monotonic()
        if changed:
            self._store.close(running)
            if self._tells_all:
                self._sums = self._store.everything()

    def _take(self, source: Source) -> bool:
        """Whether anything was; a file not written to its end counts for what it told before."""
        mark = source.changed()
        if self._taken.get(source.name) == mark and not source.has_ended:
            return False
        try:
            tallied = source.read()
        except ValueError:
            if source.has_ended:
                log.error("statistics_lost", source=source.name)
            return source.has_ended
        self._store.take(source.name, tallied)
        self._taken[source.name] = mark
        return True

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            self._try()
        self._try()

    def _try(self) -> None:
        try:
            self.take()
        except LeaseLost:
            self._stop.set()
        except Exception as error:
            self._has_news = True
            if not self._failing:
                log.error("statistics_not_taken", **fault_fields(error))
            self._failing = True
        else:
            self._failing = False
