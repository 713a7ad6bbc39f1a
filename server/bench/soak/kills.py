"""Deaths by kill -9: of the control process, which its parent starts again, and of the API process,
after which the bench does what a deployment's supervisor does: it starts the server again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import httpx

from server.bench.errors import BenchError
from server.bench.figures import Window
from server.bench.servers import GuardedLaunch, Servers
from server.bench.soak.part import Part

# How long what is left of a killed server has to end by itself.
LINGER_SECONDS = 40.0
_CONTROL_SECONDS = 120.0
_POLL_SECONDS = 0.25


class Killer(Part):
    """Kills at the given seconds after `start`, on a thread of its own.

    `restarts` are the times without a server, `time.monotonic` seconds; the last has no end while
    it lasts.
    """

    def __init__(
        self,
        servers: Servers,
        launch: GuardedLaunch,
        control_at: Sequence[float],
        api_at: Sequence[float],
    ) -> None:
        super().__init__("kills")
        self._servers, self._launch = servers, launch
        self._plan = sorted(
            [(at, self._kill_control) for at in control_at]
            + [(at, self._kill_api) for at in api_at],
            key=lambda due: due[0],
        )
        self.restarts: list[Window] = []
        self.control_seconds: list[float] = []
        self.lingering: list[int] = []

    def _work(self) -> None:
        begun = time.monotonic()
        for at, kill in self._plan:
            if self._stop.wait(max(0.0, begun + at - time.monotonic())):
                return
            kill()

    def _kill_api(self) -> None:
        begun = time.monotonic()
        self.restarts.append(Window(begun, float("inf")))
        self.lingering.append(self._servers.kill(self._launch, LINGER_SECONDS))
        self._servers.start(self._launch)
        self.restarts[-1] = Window(begun, time.monotonic())

    def _kill_control(self) -> None:
        old = self._wait_for_control()
        if old is None:
            return
        begun = time.monotonic()
        os.kill(old, signal.SIGKILL)
        if self._wait_for_control(instead_of=old) is not None:
            self.control_seconds.append(time.monotonic() - begun)

    def _wait_for_control(self, instead_of: int | None = None) -> int | None:
        """The pid of the control process once it is ready; None if the soak is over before.

        Raises:
            BenchError: it does not get ready.
        """
        end = time.monotonic() + _CONTROL_SECONDS
        while time.monotonic() < end:
            if _is_ready(self._launch.admin_url):
                pid = control_pid(self._servers.state)
                if pid is not None and pid != instead_of:
                    return pid
            if self._stop.wait(_POLL_SECONDS):
                return None
        raise BenchError(f"the control process is not ready after {_CONTROL_SECONDS:.0f} s")


def control_pid(state_dir: Path) -> int | None:
    """The control process, as its lock says; None in the moment in which it is being told."""
    told = (state_dir / "control.lock").read_text(encoding="ascii").strip()
    return int(told) if told else None


def _is_ready(admin_url: str) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(f"{admin_url}/readyz", trust_env=False).status_code == 200
    return False
