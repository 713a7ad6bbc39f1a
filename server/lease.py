"""The lease: of all control processes on one store, one compiles and publishes.

A row of the store names the holder and when its time is over, by the database's clock. The holder
renews it; one that died, hangs or is cut off does not, and another process takes it over under a
higher epoch. Every transaction of the holder's workers checks the row first, so that whoever lost
the lease without knowing can write nothing more to the store; the pointers to what is in force are
fenced by the epoch (see `guard.follower`). On SQLite a lock on the state directory keeps
other processes out, so the lease is taken at once and never ends.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, func, insert, select, update

from server.database import Database
from server.errors import LeaseLost, StoreFault
from server.log import fault_fields, get_logger
from server.tables import leases

LEASE_SECONDS = 6.0
_NAME = "control"

log = get_logger("lease")


class Lease:
    """One process's claim to the lease."""

    def __init__(
        self,
        database: Database,
        holder: str,
        *,
        seconds: float = LEASE_SECONDS,
        above: Callable[[], int] = lambda: 0,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        """Nothing is claimed yet.

        `holder` names this process and no other. Epochs are greater than what `above` gives, which
        is ahead of the store where that was restored from a backup. `on_lost` is called when
        another has taken the lease.
        """
        self._database, self._holder, self._seconds = database, holder, seconds
        self._above, self._on_lost = above, on_lost
        self._epoch = 0
        self._held, self._stop, self._waits = (threading.Event() for _ in range(3))
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    @property
    def epoch(self) -> int:
        """The number of the lead that this process took; 0 before."""
        return self._epoch

    @property
    def is_held(self) -> bool:
        """Whether this process leads, as far as it knows."""
        return self._held.is_set()

    @property
    def stands_by(self) -> bool:
        """Whether another process leads while this one waits."""
        return self._waits.is_set()

    def acquire(self) -> bool:
        """Wait until the lease is ours; False if `stop_waiting` was called first."""
        while not self._stop.is_set():
            try:
                if self._take():
                    self._held.set()
                    self._waits.clear()
                    if not self._database.is_file:
                        self._thread.start()
                    log.info("leading", epoch=self._epoch)
                    return True
            except StoreFault as error:
                log.error("lease_not_readable", **fault_fields(error))
            if not self._waits.is_set():
                self._waits.set()
                log.info("standing_by")
            self._stop.wait(self._seconds / 4)
        return False

    def stop_waiting(self) -> None:
        """Give up the claim, or stop renewing the lease."""
        self._stop.set()

    def release(self) -> None:
        """Give the lease back, so that another process need not wait for its end."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        if not self._held.is_set():
            return
        self._held.clear()
        try:
            with self._database.write() as connection:
                self._set(connection, expires_at=0.0)
        except (StoreFault, LeaseLost) as error:
            log.warning("lease_not_released", **fault_fields(error))

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that may write and that only the holder can begin.

        Raises:
            LeaseLost: another process has taken the lease.
        """
        with self._database.write() as connection:
            self._check(connection)
            yield connection

    def _take(self) -> bool:
        with self._database.write() as connection:
            now = self._now(connection)
            row = connection.execute(select(leases).where(leases.c.name == _NAME)).first()
            if row is not None and not self._database.is_file and row.expires_at > now:
                return False
            self._epoch = max(0 if row is None else row.epoch, self._above()) + 1
            values = {
                "holder": self._holder,
                "epoch": self._epoch,
                "expires_at": now + self._seconds,
            }
            if row is None:
                connection.execute(insert(leases).values(name=_NAME, **values))
            else:
                connection.execute(update(leases).where(leases.c.name == _NAME).values(values))
            return True

    def _keep(self) -> None:
        """Renew the lease until it is given back or lost."""
        while not self._stop.wait(self._seconds / 4):
            try:
                with self._database.write() as connection:
                    self._set(connection, expires_at=self._now(connection) + self._seconds)
            except LeaseLost:
                self._held.clear()
                log.error("lease_lost", epoch=self._epoch)
                self._on_lost()
                return
            except StoreFault as error:
                # Nobody else can take it either while the store is away.
                log.error("lease_not_renewed", **fault_fields(error))

    def _set(self, connection: Connection, *, expires_at: float) -> None:
        self._check(connection)
        connection.execute(
            update(leases).where(leases.c.name == _NAME).values(expires_at=expires_at)
        )

    def _check(self, connection: Connection) -> None:
        epoch = connection.scalar(select(leases.c.epoch).where(leases.c.name == _NAME))
        if epoch != self._epoch:
            raise LeaseLost("another control process leads")

    def _now(self, connection: Connection) -> float:
        """Seconds since the epoch, by the clock that all processes on the store share."""
        if self._database.is_file:
            return time.time()
        now = connection.scalar(select(func.extract("epoch", func.clock_timestamp())))
        return float(now or 0)
