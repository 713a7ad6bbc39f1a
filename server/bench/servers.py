"""Servers under test: plain vLLM and the guarded server, as processes of their own.

Nothing outlives `Servers`: on leaving it, for whatever reason, every process group is ended, and
the guarded server's state (which holds the forget target) is deleted.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from server.admin_port import KEEP_ALIVE_SECONDS
from server.bench.errors import ServerDied
from server.bench.processes import descendants, is_alive
from server.client import AdminClient
from server.errors import ServerError
from server.settings import ENV_PREFIX

SERVED_NAME = "bench"
READY_SECONDS = 600.0
_POLL_SECONDS = 0.25
_GRACE_SECONDS = 20.0
_TAIL_LINES = 25
# Linux gives those from 32768 on.
_PORTS = range(20_000, 32_000)
_given: set[int] = set()
# What an operator may have set to describe the machine; the rest would change what is measured
# (keys, addresses, another store).
_KEPT_SETTINGS = frozenset(
    f"{ENV_PREFIX}{name}" for name in ("ENCODER", "ENCODER_DEVICE", "ALPHA", "HOLDBACK_CHARS")
)


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start one server."""

    name: str
    command: Sequence[str]
    base_url: str
    ready_path: str
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)


def plain_launch(model: str, flags: Sequence[str]) -> Launch:
    """vLLM's own OpenAI server."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    command += ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", SERVED_NAME]
    command += ["--logprobs-mode", "processed_logprobs", *flags]
    return Launch("plain", command, f"http://127.0.0.1:{port}", "/health")


@dataclass(frozen=True, slots=True)
class GuardedLaunch(Launch):
    """How to start the guarded server, and how to reach its admin API."""

    admin_url: str = ""
    admin_key: str = field(default="", repr=False)

    def admin(self) -> AdminClient:
        """A client of its admin API."""
        return AdminClient(self.admin_url, self.admin_key)


def guarded_launch(model: str, flags: Sequence[str], state: Path) -> GuardedLaunch:
    """`lethegate serve` with a fresh state directory and nothing registered."""
    port, admin_port = free_ports(2)
    key = secrets.token_urlsafe(24)
    command = [sys.executable, "-P", "-m", "server", "serve", model, "--state-dir", str(state)]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    command += ["--admin-host", "127.0.0.1", "--admin-port", str(admin_port)]
    command += ["--served-model-name", SERVED_NAME, *flags]
    return GuardedLaunch(
        name="guarded",
        command=command,
        base_url=f"http://127.0.0.1:{port}",
        ready_path="/readyz",
        environment={f"{ENV_PREFIX}ADMIN_KEY": key},
        admin_url=f"http://127.0.0.1:{admin_port}",
        admin_key=key,
    )


class Servers:
    """Starts servers and, on leaving, ends them all.

    Logs and state lie in `directory`, a temporary one. It is deleted, except that the logs stay
    after a ServerError, which then carries their last lines as notes.
    """

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="lethegate-bench-"))
        self.state = self.directory / "state"
        self._running: list[_Server] = []
        self._starting = threading.Lock()
        self._closed = False

    def start(self, launch: Launch) -> None:
        """Start a server and wait until it is ready.

        Raises:
            ServerDied: it ended, or was not ready in time.
        """
        with self._starting:
            if self._closed:
                raise ServerDied("the bench is at its end")
            server = _Server(launch, self.directory / f"{launch.name}.log")
            self._running.append(server)
        server.wait_until_ready()

    def check(self) -> None:
        """Tell whether all of them still live.

        Raises:
            ServerDied: one does not.
        """
        for server in self._running:
            server.check()

    def pid(self, launch: Launch) -> int:
        """The first process of a server that was started.

        Raises:
            ServerDied: it was not, or was killed.
        """
        return self._server(launch).pid

    def stop(self, launch: Launch) -> None:
        """End a server that is needed no more."""
        server = self._server(launch)
        server.ask_to_stop()
        server.stop()
        self._running.remove(server)

    def kill(self, launch: Launch, linger_seconds: float) -> int:
        """Kill a server's first process with SIGKILL, as a lack of memory may.

        What was below it is ended, too, as whoever supervises a server does before it is started
        again; gives how many of those had not ended by themselves within `linger_seconds`.
        """
        server = self._server(launch)
        self._running.remove(server)
        return server.kill(linger_seconds)

    def _server(self, launch: Launch) -> _Server:
        for server in self._running:
            if server.launch == launch:
                return server
        raise ServerDied(f"the {launch.name} server does not run")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._starting:
            self._closed = True
        if isinstance(error, ServerError):
            # Before they are told to stop: what they say then is of no interest.
            for server in self._running:
                error.add_note(server.tail())
        with _uninterrupted():
            for server in self._running:
                server.ask_to_stop()
            for server in self._running:
                server.stop()
        shutil.rmtree(self.state, ignore_errors=True)
        if not isinstance(error, ServerError):
            shutil.rmtree(self.directory, ignore_errors=True)


class _Server:
    """One process, leader of a session and process group of its own."""

    def __init__(self, launch: Launch, log: Path) -> None:
        self.launch = launch
        self._log = log
        # One that is started again goes on in the same file.
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                list(launch.command),
                env={**_environment(os.environ), **launch.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches the bench alone, which then ends it
            )

    def wait_until_ready(self) -> None:
        begun = time.monotonic()
        with httpx.Client(base_url=self.launch.base_url, trust_env=False) as http:
            while time.monotonic() - begun < READY_SECONDS:
                self.check()
                with suppress(httpx.HTTPError):
                    if http.get(self.launch.ready_path).status_code == 200:
                        return
                time.sleep(_POLL_SECONDS)
        raise ServerDied(f"the {self.launch.name} server is not ready after {READY_SECONDS:.0f} s")

    def check(self) -> None:
        status = self._process.poll()
        if status is not None:
            raise ServerDied(f"the {self.launch.name} server ended with status {status}")

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self, linger_seconds: float) -> int:
        below = descendants(self.pid)
        self._process.kill()
        self._process.wait()
        end = time.monotonic() + linger_seconds
        while (left := [pid for pid in below if is_alive(pid)]) and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(left)

    def ask_to_stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()

    def stop(self) -> None:
        pid = self._process.pid
        try:
            self._process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            # It hangs. The guarded server's control process has a process group of its own.
            for each in (pid, *descendants(pid)):
                with suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)
        # Whatever is left of the group: children that lost their leader.
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        self._process.wait()

    def tail(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        shown = "\n".join(f"  {line}" for line in lines[-_TAIL_LINES:])
        return f"The {self.launch.name} server's log, {self._log}, ends with:\n{shown}"


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ignore Ctrl-C while servers are being ended, which is bounded in time."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """A server's environment: no settings of another server, no phoning home, a modest cache."""
    kept = {
        name: value
        for name, value in inherited.items()
        if not name.startswith(ENV_PREFIX) or name in _KEPT_SETTINGS
    }
    return {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": engine_cores(os.cpu_count() or 1),
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": str(KEEP_ALIVE_SECONDS),
        **kept,
    }


def engine_cores(count: int) -> str:
    """The cores of an engine on the CPU: all but the first, which is left to everything else.

    An engine on every core waits, in each step, for whichever of its threads shares a core with the
    API server or the load: what is measured then is the scheduler.
    """
    return "0" if count < 2 else f"1-{count - 1}"


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Ports of a host that nobody listens on, none of them given before.

    None that the kernel gives by itself: until a server listens on such a port, which takes a
    while, it may be the near end of somebody's connection, or what an engine had given to it.
    """
    found: list[int] = []
    while len(found) < count:
        port = secrets.choice(_PORTS)
        with suppress(OSError), socket.create_server((host, port)):
            if port not in _given:
                _given.add(port)
                found.append(port)
    return found
