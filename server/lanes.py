"""Lanes: bounded queues of conversations to judge, each with a thread of its own.

A lane's thread takes what has gathered and never waits for more: a request that finds it idle is
judged at once, and what arrives meanwhile is the next batch. Short and long conversations have
lanes of their own, so that nobody waits for a long one.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from guard.decision import Decision
from guard.key_scope import ALL_TARGETS, KeyScope
from server.errors import GuardTimeout, Overloaded


@dataclass(frozen=True, slots=True)
class Waiting:
    """One request in a queue: all texts of its conversation, whose, where the decision goes."""

    texts: Sequence[str]
    scope: KeyScope
    loop: asyncio.AbstractEventLoop
    decision: asyncio.Future[Decision]

    @classmethod
    def of(cls, texts: Sequence[str], scope: KeyScope = ALL_TARGETS) -> Waiting:
        """A request of the running event loop."""
        loop = asyncio.get_running_loop()
        return cls(texts, scope, loop, loop.create_future())

    @property
    def given_up(self) -> bool:
        """Whether nobody waits for the decision any more."""
        return self.decision.done()

    def answer(self, decided: Decision | Exception) -> None:
        """Give the decision, or say why there is none; from any thread.

        Where the request's loop has ended nobody is told, and the lane goes on.
        """

        def settle() -> None:
            if self.decision.done():
                return
            if isinstance(decided, Exception):
                self.decision.set_exception(decided)
            else:
                self.decision.set_result(decided)

        with suppress(RuntimeError):  # of a closed loop
            self.loop.call_soon_threadsafe(settle)


class Lane:
    """A bounded queue and the thread that works it off."""

    def __init__(
        self,
        name: str,
        length: int,
        work: Callable[[Sequence[Waiting]], None],
        patience_seconds: float,
    ) -> None:
        """`work` gets at most `batch` requests at a time; it answers them and raises nothing.

        When it has not come back after `patience_seconds` (longer than anybody waits), it hangs.
        """
        self._name = name
        self._patience_seconds = patience_seconds
        self._busy_since: float | None = None
        self._work = work
        self._queue: queue.Queue[Waiting] = queue.Queue(length)
        self._batch = 1

    def start(self, batch: int) -> None:
        """Start the thread."""
        self._batch = batch
        threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def put(self, waiting: Waiting) -> None:
        """Queue a request.

        Raises:
            Overloaded: too many wait.
            GuardTimeout: what is being worked on hangs, and with it whoever came now.
        """
        if self.hangs:
            raise GuardTimeout()
        try:
            self._queue.put_nowait(waiting)
        except queue.Full:
            raise Overloaded() from None

    @property
    def hangs(self) -> bool:
        """Whether the work at hand has been going on for longer than anybody waits."""
        since = self._busy_since
        return since is not None and time.monotonic() - since > self._patience_seconds

    def _run(self) -> None:
        while True:
            batch = self._gather()
            self._busy_since = time.monotonic()
            self._work(batch)
            self._busy_since = None

    def _gather(self) -> list[Waiting]:
        """Wait for one request, then take what else is there."""
        batch = [self._queue.get()]
        while len(batch) < self._batch:
            try:
                batch.append(self._queue.get_nowait())
            except queue.Empty:
                break
        return batch
