"""Machine time: how much of a stretch of time this (virtual) machine was really running.

A host that is overcommitted stops its guests for seconds; their clocks go on, and guests are told
of only a part of it as stolen time. The kernel's tick counts go on only while the machine runs.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

_STAT = Path("/proc/stat")


class MachineTime:
    """Counts from its construction on; all cores, idle or not."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._ticks = _ticks()

    def share(self) -> float:
        """Share of the time since then in which the machine ran, 0 to 1; 1 where nobody tells."""
        seconds = time.monotonic() - self._begun
        cores, hertz = os.cpu_count() or 1, os.sysconf("SC_CLK_TCK")
        if self._ticks is None or seconds <= 0:
            return 1.0
        return min(1.0, ((_ticks() or 0) - self._ticks) / hertz / cores / seconds)


def _ticks() -> int | None:
    """Everything that all cores were seen doing, idling too; stolen time is left out."""
    try:
        fields = _STAT.read_text(encoding="ascii").split("\n", 1)[0].split()[1:8]
    except OSError:
        return None
    return sum(map(int, fields))
