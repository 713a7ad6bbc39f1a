"""The audit of one process: records are queued, and a thread writes them down.

Nobody waits for the disk. Records that cannot be written wait in a bounded queue and are tried
again; when it is full, further ones are lost and counted, and the first record after it says how
many. While records cannot be written, changes over the admin API are refused, and with
`audit_required` so are requests.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

from server.audit.files import AuditFiles
from server.errors import AuditUnavailable
from server.log import fault_fields, get_logger
from server.metrics.audit import AuditMetrics

QUEUE_LENGTH = 20_000
_BATCH = 1_000
_SYNC_SECONDS = 1.0
_RETRY_SECONDS = 1.0

log = get_logger("audit")


class Recorder(Protocol):
    """Where events go."""

    def record(self, event: str, **fields: Any) -> None:
        """Take an event; returns at once and never raises."""

    def check(self) -> None:
        """Refuse what must not happen unrecorded.

        Raises:
            AuditUnavailable: records cannot be written now.
        """


class AuditWriter:
    """The thread and its queue; `files` are where it writes."""

    def __init__(
        self,
        files: AuditFiles,
        metrics: AuditMetrics,
        fsync: Literal["always", "interval", "never"] = "interval",
        length: int = QUEUE_LENGTH,
    ) -> None:
        self.files, self._metrics, self._fsync = files, metrics, fsync
        self._queue: queue.Queue[Mapping[str, Any] | None] = queue.Queue(length)
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._lost = 0
        self._failing = False
        self._stopping = False
        self._synced_at = 0.0
        self._unsynced = False

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self, timeout_seconds: float = 5.0) -> None:
        """Write what waits, and end."""
        self._stopping = True
        try:
            self._queue.put(None, timeout=timeout_seconds)
        except queue.Full:
            return
        self._thread.join(timeout_seconds)

    def record(self, event: str, **fields: Any) -> None:
        """Queue an event; returns at once and never raises."""
        try:
            self._queue.put_nowait({"event": event, "at": _now(), **fields})
        except queue.Full:
            self._lost += 1
            self._metrics.record_lost(1)

    def check(self) -> None:
        """Refuse what must not happen unrecorded.

        Raises:
            AuditUnavailable: records cannot be written now.
        """
        if self._failing or self._queue.full():
            raise AuditUnavailable()

    def _run(self) -> None:
        while True:
            batch = self._gather()
            if batch:
                self._write(batch)
            if self._stopping and self._queue.empty():
                self._sync()
                return

    def _gather(self) -> list[Mapping[str, Any]]:
        try:
            found = [self._queue.get(timeout=_SYNC_SECONDS)]
        except queue.Empty:
            self._sync()
            return []
        while len(found) < _BATCH:
            try:
                found.append(self._queue.get_nowait())
            except queue.Empty:
                break
        return [record for record in found if record is not None]

    def _write(self, batch: list[Mapping[str, Any]]) -> None:
        while True:
            lost = self._lost
            notes = [{"event": "records_lost", "at": _now(), "count": lost}] if lost else []
            try:
                self.files.append([*notes, *batch], sync=self._fsync == "always")
            except (OSError, ValueError) as error:
                self._fail(error)
                if self._stopping:
                    self._metrics.record_lost(len(batch))
                    return
                time.sleep(_RETRY_SECONDS)
                continue
            self._lost -= lost
            self._failing, self._unsynced = False, True
            self._metrics.record_written(len(batch))
            if time.monotonic() - self._synced_at >= _SYNC_SECONDS:
                self._sync()
            return

    def _sync(self) -> None:
        if self._fsync != "interval" or not self._unsynced:
            return
        self._synced_at = time.monotonic()
        try:
            self.files.sync()
        except OSError as error:
            self._fail(error)
        else:
            # Nothing else would say so where all that could be recorded is refused meanwhile.
            self._failing = self._unsynced = False

    def _fail(self, error: Exception) -> None:
        if not self._failing:
            log.error("audit_not_written", **fault_fields(error))
        self._failing = True
        self._metrics.record_failure()


class NoAudit:
    """Where nothing is recorded: benches and tests."""

    def record(self, event: str, **fields: Any) -> None:
        """Forget the event."""

    def check(self) -> None:
        """Never refuse."""


NO_AUDIT = NoAudit()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
