"""How much memory a server's processes have over time, by what they are for.

Resident memory, as Linux's /proc tells it. The proportional set size would also grow where another
process that shares a library ends. A process counts once it has run for a while: what it loads at
its start is no growth.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from server.bench.errors import BenchError
from server.bench.processes import descendants
from server.bench.soak.part import Part

# Processes by role; what is none of these comes and goes (a checker of files, a tracker).
ROLES = ("api", "engine", "worker", "control")
_CONTROL = b"\0control\0--with-parent"
_ENGINES = {"VLLM::EngineCor": "engine", "VLLM::Worker": "worker"}


@dataclass(frozen=True, slots=True)
class Sample:
    """One process at one moment, `time.monotonic` seconds; `age` is how long it had been seen."""

    at: float
    role: str
    age: float
    mib: float
    files: int


class MemoryWatch(Part):
    """Looks at the processes of a server every so often.

    `server` gives the pid of its first one, or raises BenchError while there is none.
    """

    def __init__(self, server: Callable[[], int], period_seconds: float) -> None:
        super().__init__("memory")
        self._server, self._period = server, period_seconds
        self._seen: dict[int, float] = {}
        self.samples: list[Sample] = []

    def _work(self) -> None:
        while not self._stop.wait(self._period):
            with suppress(BenchError):
                self.look(self._server())

    def look(self, server: int) -> None:
        """Take a sample of every process with a role."""
        now = time.monotonic()
        for pid in (server, *descendants(server)):
            with suppress(OSError, ValueError):
                role = "api" if pid == server else role_of(pid)
                if role is not None:
                    age = now - self._seen.setdefault(pid, now)
                    files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
                    self.samples.append(Sample(now, role, age, _resident_mib(pid), files))


def role_of(pid: int) -> str | None:
    """What a process below the server is for, by its name; None if it has no role."""
    if _CONTROL in Path(f"/proc/{pid}/cmdline").read_bytes():
        return "control"
    name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    return next((role for begin, role in _ENGINES.items() if name.startswith(begin)), None)


def memory_figures(samples: Sequence[Sample], since: float, settled: float) -> dict[str, Any]:
    """Medians of both halves of the time from `since` on, by role, and the growth between them.

    Only processes that have run for `settled` seconds count. A role without samples in either half
    has no growth, which is told by its key's absence.
    """
    found: dict[str, Any] = {}
    counted = [s for s in samples if s.at >= since and s.age >= settled]
    if not counted:
        return {"memory_growth_max": None}
    middle = (counted[0].at + counted[-1].at) / 2
    growths = []
    for role in ROLES:
        halves = [
            [s for s in counted if s.role == role and (s.at >= middle) == later]
            for later in (False, True)
        ]
        if not all(halves):
            continue
        first, second = (median(s.mib for s in half) for half in halves)
        growths.append(second / first - 1)
        found[f"{role}_mib_first_half"] = round(first, 1)
        found[f"{role}_mib_second_half"] = round(second, 1)
        found[f"{role}_memory_growth"] = round(second / first - 1, 4)
        found[f"{role}_open_files_last"] = halves[1][-1].files
    found["memory_growth_max"] = round(max(growths), 4) if growths else None
    return found


def _resident_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) / 1024
    raise ValueError
