"""Control processes of the tests: real ones, which are forked, killed and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.bench.servers import free_ports

# Everything waits for conditions so long: the machine may stand still for seconds.
PATIENCE_SECONDS = 60


class Nursery:
    """A process that starts control processes by forking: see `nursery.py`."""

    def __init__(self, script: Path) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("LETHEGATE_")}
        command = [sys.executable, str(Path(__file__).with_name("nursery.py")), str(script)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen(command, env=environment, **pipes)
        self._asking = threading.Lock()

    def ask(self, **request: Any) -> Any:
        """The answer to a request."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._asking:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End it."""
        self._process.communicate()


class Forked:
    """A process that a nursery started, with the methods of `subprocess.Popen`."""

    def __init__(self, nursery: Nursery, arguments: list[str], log: Path) -> None:
        self._nursery = nursery
        self.pid: int = nursery.ask(start=arguments, log=str(log))
        self._status: int | None = None

    def send_signal(self, number: int) -> None:
        """Unless it has ended, and that was seen."""
        if self._status is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9."""
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float = PATIENCE_SECONDS) -> int:
        """Its exit status, negative if a signal ended it."""
        end = time.monotonic() + timeout
        while self._status is None:
            self._status = self._nursery.ask(poll=self.pid)
            assert time.monotonic() < end, "the process does not end"
            time.sleep(0.005)
        return self._status


class ControlProcess:
    """A real control process that can be killed and started again."""

    def __init__(
        self,
        nursery_of: Callable[[Path], Nursery],
        state_dir: Path,
        url: str | None = None,
        model: Path | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self._nursery_of = nursery_of
        self.state_dir = state_dir
        self.script = Path(__file__).with_name("fake_control.py")
        self.url, self.model, self.host = url, model, host
        (self.port,) = free_ports(1, host)
        self.process: Forked | None = None
        # A moment of `fake_control.DEATHS` in which the next one kills itself.
        self.death = ""
        self.http = httpx.Client(
            base_url=f"http://{host}:{self.port}/admin/v1",
            headers={"authorization": "Bearer admin-key"},
            timeout=30,
            trust_env=False,
        )

    def start(self) -> Forked:
        """Start it without waiting."""
        arguments = [str(self.state_dir), str(self.port)]
        arguments += [self.url or "", str(self.model or ""), self.host]
        arguments += [self.death] if self.death else []
        log = self.state_dir.parent / "log"
        self.process = Forked(self._nursery_of(self.script), arguments, log)
        return self.process

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def until(self, condition: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
        """Wait for a condition that may need the API to come up first."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if condition():
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.02)
        pytest.fail("the condition never held")

    def ready(self) -> bool:
        """Whether a policy is in force."""
        return self.http.get(f"http://{self.host}:{self.port}/readyz").status_code == 200

    def close(self) -> None:
        """End everything."""
        self.kill()
        self.http.close()
