"""The control process's side: puts every change of the keys into force at the gateways.

A change is published by whoever makes it; a thread looks every second for what another control
process changed in the same store. The gateways need neither: they go on with the last list.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from guard.follower import ActivePointer, followers
from server.errors import KeysUnreadable, StoreFault
from server.keys.published import KeyList, prune_lists, read_list, write_list
from server.keys.store import KeyStore
from server.log import fault_fields, get_logger
from server.policy import FollowerStatus

POLL_SECONDS = 1.0

log = get_logger("keys")


class KeyPublisher:
    """Publishes the store's keys in a directory."""

    def __init__(
        self,
        store: KeyStore,
        directory: Path,
        elsewhere: Callable[[], Sequence[FollowerStatus]] = tuple,
    ) -> None:
        """`elsewhere` gives the gateways of other machines."""
        self._store, self.directory, self._elsewhere = store, directory, elsewhere
        self._pointer = ActivePointer(directory)
        self._lock = threading.Lock()
        self._revision = -1
        self._current: KeyList | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keys", daemon=True)

    def start(self) -> None:
        """Publish what the store holds now, then go on in the background."""
        self._try()
        self._thread.start()

    def stop(self) -> None:
        """Publish nothing more."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def current(self) -> KeyList | None:
        """The list in force; None before the first."""
        return self._current

    def publish(self) -> int:
        """Put the store's keys into force if they are new; the generation that rules."""
        with self._lock:
            stored = self._store.everything()
            digest = write_list(self.directory, stored)
            active = self._pointer.read()
            if active is None or active.digest != digest:
                generation = 1 if active is None else active.generation + 1
                self._pointer.publish(generation, digest)
            else:
                generation = active.generation
            self._current = read_list(self.directory, digest)
            self._revision = stored.revision
            prune_lists(self.directory, digest)
            return generation

    def put_in_force(self, timeout_seconds: float) -> bool:
        """Publish what was stored; whether every live gateway applies it within that time.

        What cannot be published now is tried again every second.
        """
        generation = self._try()
        if generation is None:
            return False
        end = time.monotonic() + timeout_seconds
        while self._is_behind(generation):
            if time.monotonic() >= end:
                return False
            time.sleep(0.01)
        return True

    def _is_behind(self, generation: int) -> bool:
        here = any(f.generation < generation for f in followers(self.directory))
        return here or any((f.generation or 0) < generation for f in self._elsewhere())

    def _try(self) -> int | None:
        try:
            return self.publish()
        except (StoreFault, KeysUnreadable, OSError) as error:
            log.error("keys_not_published", **fault_fields(error))
            return None

    def _run(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            try:
                changed = self._store.revision() != self._revision
            except StoreFault as error:
                log.error("keys_not_published", **fault_fields(error))
                continue
            if changed:
                self._try()
