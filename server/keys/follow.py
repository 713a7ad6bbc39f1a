"""The keys as a gateway applies them: followed on a thread, held as one immutable list."""

from __future__ import annotations

import threading
from pathlib import Path

from guard.errors import GuardError
from guard.follower import Active, Follower
from server.errors import KeysUnreadable
from server.keys.published import KeyList, read_list
from server.log import fault_fields, get_logger
from server.metrics.gateway import GatewayMetrics

_RETRY_SECONDS = 1.0

log = get_logger("keys")


class KeysFollower:
    """Follows what the control process publishes.

    Until a first list is read there is none, and only keys of the settings open anything. A newer
    list that cannot be read is not acknowledged, and the one before it goes on ruling; it is tried
    again every second, as a key that was revoked must not go on for a fault that has passed.
    """

    def __init__(self, directory: Path, metrics: GatewayMetrics) -> None:
        self._directory, self._metrics = directory, metrics
        self._current: KeyList | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keys", daemon=True)

    def start(self) -> None:
        """Follow in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Follow no longer."""
        self._stop.set()
        self._thread.join()

    def current(self) -> KeyList | None:
        """The list in force here; None while there is none."""
        return self._current

    def _run(self) -> None:
        while not self._stop.is_set():
            follower = None
            try:
                follower = Follower(self._directory, "gateway", self._load, self._failed)
                follower.start()
                while not self._stop.wait(_RETRY_SECONDS):
                    if follower.state.failed_generation > follower.state.generation:
                        follower.look_again()
            except Exception as error:
                self._failed(error)
                self._stop.wait(_RETRY_SECONDS)
            finally:
                if follower is not None:
                    follower.stop()

    def _load(self, active: Active) -> None:
        try:
            self._current = read_list(self._directory, active.digest)
        except (KeysUnreadable, OSError, ValueError, LookupError) as error:
            self._failed(error)
            raise GuardError("the list of keys cannot be read") from None
        self._metrics.set_keys(active.generation)

    def _failed(self, error: Exception) -> None:
        self._metrics.record_keys_failure()
        log.error("keys_not_loaded", **fault_fields(error))
