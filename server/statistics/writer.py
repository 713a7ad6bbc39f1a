"""The thread of a gateway that tells what it has counted."""

from __future__ import annotations

import threading

from server.log import fault_fields, get_logger
from server.statistics.files import StatisticsFile
from server.statistics.tally import TargetTally

WRITE_SECONDS = 2.0

log = get_logger("statistics")


class StatisticsWriter:
    """Writes the counters where they have changed."""

    def __init__(
        self, file: StatisticsFile, tally: TargetTally, seconds: float = WRITE_SECONDS
    ) -> None:
        self._file, self._tally, self._seconds = file, tally, seconds
        self._written = 0
        self._failing = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="statistics", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """Write what is left, and end."""
        self._stop.set()
        self._thread.join()
        self._file.close()

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            self._write()
        self._write()

    def _write(self) -> None:
        changes = self._tally.changes
        if changes == self._written:
            return
        try:
            self._file.write(self._tally.now())
        except OSError as error:
            # Nothing is lost: the next writing tells all.
            if not self._failing:
                log.error("statistics_not_written", **fault_fields(error))
            self._failing = True
            return
        self._written, self._failing = changes, False
