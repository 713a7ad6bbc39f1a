"""The life of a worker: a thread that does one job after the other and outlives faults."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod

from server.log import fault_fields, get_logger
from server.metrics.control import ControlMetrics
from server.metrics.labels import Storage

RETRY_SECONDS = 5.0


class Stopped(Exception):
    """The process is ending: leave the job as it is, the next start resumes it."""


class JobThread(ABC):
    """Works in a thread of its own; what a fault of store or disk cut short is taken up again."""

    def __init__(
        self, name: str, metrics: ControlMetrics, stopped: threading.Event | None = None
    ) -> None:
        """`name` is the thread's and the log's; `stopped` is set when it is to end."""
        self._name, self._metrics = name, metrics
        self._stop = stopped or threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def notify(self) -> None:
        """A job was queued or cancelled."""
        self._wake.set()

    def stop(self, timeout_seconds: float = 10.0) -> None:
        """End the thread soon; a job that is running is left behind and resumed later."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._begin()
                while not self._stop.is_set():
                    self._turn()
            except Stopped:
                return
            except Exception as error:
                # What is in force stays.
                get_logger(self._name).error(f"{self._name}_fault", **fault_fields(error))
                if isinstance(error, OSError):
                    self._metrics.record_storage_failure(Storage.FILES)
                self._stop.wait(RETRY_SECONDS)

    @abstractmethod
    def _begin(self) -> None:
        """What comes before the first job, and after a fault."""

    @abstractmethod
    def _turn(self) -> None:
        """Do a job; without one wait until `_wake` is set, or a while."""
