"""Processes below one and their memory, as Linux's /proc tells."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path


def descendants(ancestor: int) -> list[int]:
    """Every process below a living one."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(_fields(path)[1])
            children.setdefault(parent, []).append(int(path.parent.name))
    found = [ancestor]
    for pid in found:
        found += children.get(pid, ())
    return found[1:]


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not asked for its status does not."""
    try:
        return _fields(Path(f"/proc/{pid}/stat"))[0] not in ("Z", "X")
    except OSError:
        return False


def _fields(stat: Path) -> list[str]:
    # The name, in brackets, may hold anything; state and parent follow it.
    return stat.read_text(errors="replace").rpartition(")")[2].split()


def peak_mib(pids: Sequence[int], command: str) -> float:
    """The most memory that the processes of one of our commands took, in MiB; 0: there is none."""
    found = 0.0
    for pid in pids:
        with suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if words[1:4] != [b"-m", b"server", command.encode()]:
                continue
            status = Path(f"/proc/{pid}/status").read_text()
            peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
            found = max(found, int(peak.split()[1]) / 1024)
    return round(found, 1)
