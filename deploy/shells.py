"""Shells for `stranger.py`: a clone, a home of its own, and what the commands there printed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

STEP_SECONDS = 300.0
STOP_SECONDS = 120.0
# Of this environment only what says where things come from; caches and settings begin empty.
KEPT = re.compile(
    r"PATH|LANG|LC_\w+|TZ|TERM|USER|LOGNAME|SHELL|CC|CXX|LD_LIBRARY_PATH|PIP_(?!CACHE_DIR)\w+|"
    r"SSL_CERT_\w+|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|(?i:\w+_proxy)|CUDA_\w+|NVIDIA_\w+"
)


class Failed(Exception):
    """The path cannot be gone on with."""


class Place:
    """Where the stranger works."""

    def __init__(self, folder: Path) -> None:
        self.clone, self.again = folder / "lethegate", folder / "again"
        self.home, self.logs = folder / "home", folder / "logs"
        self._commands = 0
        for each in (self.home, self.logs):
            each.mkdir(parents=True)

    def environment(self) -> dict[str, str]:
        """A home of its own, and no settings, caches or environment of anybody else's."""
        kept = {name: value for name, value in os.environ.items() if KEPT.fullmatch(name)}
        active = os.environ.get("VIRTUAL_ENV", "")
        paths = [each for each in kept["PATH"].split(":") if not active or active not in each]
        # Where packages come from is the machine's affair.
        settings = Path.home() / ".config" / "pip" / "pip.conf"
        source = {"PIP_CONFIG_FILE": str(settings)} if settings.exists() else {}
        return {**source, **kept, "PATH": ":".join(paths), "HOME": str(self.home)}

    def shell(self, text: str, seconds: float = STEP_SECONDS, folder: Path | None = None) -> str:
        """What a shell prints to standard output; it must succeed, and in time.

        Raises:
            Failed: it does not; carries the end of what it printed.
        """
        process, log = self._start(text, folder)
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            fail(f"not done in {seconds:.0f} s", text, log)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if status:
            fail(f"status {status}", text, log)
        return log.read_text(errors="replace")

    @contextmanager
    def running(self, text: str) -> Iterator[Callable[[], str]]:
        """A command that goes on until Ctrl-C; what is given tells what it has printed.

        Raises:
            Failed: it ended by itself, or not after Ctrl-C.
        """
        process, log = self._start(text)

        def printed() -> str:
            if process.poll() is not None:
                fail(f"ended with status {process.returncode}", text, log)
            return everything(log)

        try:
            yield printed
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                fail(f"did not end within {STOP_SECONDS:.0f} s of Ctrl-C", text, log)

    def _start(self, text: str, folder: Path | None = None) -> tuple[subprocess.Popen[bytes], Path]:
        """A shell that runs a text in the clone, and the file that it prints to."""
        self._commands += 1
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            # As a shell has it that started this in the background; no command could trap it.
            signal.signal(signal.SIGINT, signal.default_int_handler)
        log = self.logs / f"{self._commands:02}.log"
        log.with_suffix(".sh").write_text(text + "\n", encoding="utf-8")
        with log.open("wb") as out, log.with_suffix(".err").open("wb") as err:
            process = subprocess.Popen(
                ["bash", "-ec", text],
                cwd=folder or self.clone,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        return process, log


def everything(log: Path) -> str:
    """What a command printed, to standard output and then to standard error."""
    files = (log, log.with_suffix(".err"))
    return "".join(each.read_text(errors="replace") for each in files)


def fail(problem: str, text: str, log: Path) -> NoReturn:
    """Give up, with the end of what a command printed.

    Raises:
        Failed: always.
    """
    raise Failed(
        f"{problem}: {text}\n{everything(log)[-3000:]}\n(all of it: {log.with_suffix('.*')})"
    )
