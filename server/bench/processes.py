"""Processes below one, as Linux's /proc tells."""

from __future__ import annotations

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
