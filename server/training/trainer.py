"""A trainer process as the control process holds it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from server.training.request import OUTCOME, read_private

_STOP_SECONDS = 5.0


class Trainer:
    """One run of the trainer on a training's folder. Use as a context: it ends with it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / OUTCOME).unlink(missing_ok=True)
        # A process group of its own: Ctrl-C is for the control process, which then ends it.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "server.training.process", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            process_group=0,
        )

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def status(self) -> int | None:
        """The exit status, None while it runs; negative for the signal that ended it."""
        return self._process.poll()

    def outcome(self) -> dict[str, Any]:
        """What it left to be told: the `message` of its refusal, or `memory_gib`."""
        found: dict[str, Any] = read_private(self._folder / OUTCOME) or {}
        return found

    def stop(self) -> None:
        """Have it write its checkpoint and end; kill it where that takes long."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()
