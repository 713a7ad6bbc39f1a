"""The thread of the leading control process that brings gateways' counters into the store.

A file that has not changed is not read. Of a gateway that has ended the last numbers are stored
first, then its file is deleted, and only then are they added to those of others that ended: where
this process dies in between, nothing is lost and nothing counted twice.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

from server.errors import LeaseLost
from server.log import fault_fields, get_logger
from server.statistics.counts import TargetCounts
from server.statistics.files import Source, sources
from server.statistics.store import StatisticsStore

TAKE_SECONDS = 2.0

log = get_logger("statistics")


class StatisticsKeeper:
    """Takes what gateways counted.

    With `tells_all` it also has the sums of all targets at hand, for the metrics.
    """

    def __init__(
        self,
        store: StatisticsStore,
        directory: Path,
        *,
        tells_all: bool = False,
        seconds: float = TAKE_SECONDS,
    ) -> None:
        self._store, self._directory, self._seconds = store, directory, seconds
        self._tells_all = tells_all
        self._sums: Mapping[str, TargetCounts] = {}
        self._taken: dict[str, tuple[int, int]] = {}
        self._is_first = True
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

    def take(self) -> None:
        """Bring every file that has changed into the store.

        Raises:
            StoreFault: the store cannot be written.
            LeaseLost: another control process does this now.
            OSError, ValueError: a file cannot be read.
        """
        running, changed = set(), self._is_first
        for source in sources(self._directory):
            changed = self._take(source) or changed
            if source.has_ended:
                source.delete()
                self._taken.pop(source.name, None)
            else:
                running.add(source.name)
        if changed:
            self._store.close(running)
            if self._tells_all:
                self._sums = self._store.everything()
        self._is_first = False

    def _take(self, source: Source) -> bool:
        mark = source.changed()
        if self._taken.get(source.name) == mark and not source.has_ended:
            return False
        self._store.take(source.name, source.read())
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
            if not self._failing:
                log.error("statistics_not_taken", **fault_fields(error))
            self._failing = True
        else:
            self._failing = False
