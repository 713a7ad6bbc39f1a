"""What the soak's parts share: each runs on a thread of its own until it is told to stop."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod


class Part(ABC):
    """One part; `fault` is what ended it before it was told to."""

    def __init__(self, name: str) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.fault: BaseException | None = None

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def abandon(self) -> None:
        """Have it end, and do not wait for that."""
        self._stop.set()

    def stop(self) -> None:
        """End after what is being done now."""
        self._stop.set()
        self._thread.join()

    def check(self) -> None:
        """Whether it runs, or did until it was told to end.

        Raises:
            BaseException: what ended it.
        """
        if self.fault is not None:
            raise self.fault

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self.fault = error

    @abstractmethod
    def _work(self) -> None:
        """What it does until `_stop` is set."""
