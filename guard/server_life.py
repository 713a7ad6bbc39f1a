"""No process of a server outlives it.

vLLM's engine and worker processes notice the end of a server that says so, but not that of one that
was killed (SIGKILL, a lack of memory): they stay, with the device's memory, for ever, and the
server that is started in its place finds none. The server tells its pid in the environment, and
whatever it spawns watches it from its first instruction on: loading a model takes minutes.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from contextlib import suppress
from multiprocessing import spawn
from pathlib import Path

SERVER_PID = "LETHEGATE_INTERNAL_SERVER_PID"
GRACE_SECONDS = 10.0
_HAS_PIDFDS = hasattr(os, "pidfd_open")
# With -c, `guard` would be looked for in the working directory first.
_HOME = str(Path(__file__).resolve().parents[1])
_BEGIN = (
    f"import sys; sys.path.insert(0, {_HOME!r}); "
    "from guard.server_life import begin; del sys.path[0]; begin(); "
)


def server_pid() -> int | None:
    """The server's pid as the environment has it; None where there is none."""
    pid = os.environ.get(SERVER_PID, "")
    return int(pid) if pid.isdigit() else None


def watch_spawned() -> None:
    """Have every process that `multiprocessing` spawns from here, and below, `begin` first.

    It knows no hook for that, but starts each with a line of Python (read at CPython 3.11 to 3.14).
    """
    plain = spawn.get_command_line

    def command_line(**options: int) -> list[str]:
        command = plain(**options)
        pairs = zip(["", *command], command, strict=False)
        return [_BEGIN + word if before == "-c" else word for before, word in pairs]

    vars(spawn)["get_command_line"] = command_line


def begin() -> None:
    """End this process with its server, at once if that has gone already."""
    watch_spawned()
    server = server_pid()
    if server is None or not _HAS_PIDFDS:
        return
    if not _below(server):
        os._exit(1)
    _watch_in_thread(server, [os.getpid()])


def end_with_server() -> bool:
    """Have this process, and those between it and its server, end when that has gone.

    For processes that were forked, which `begin` never saw. Gives whether there is such a server:
    none is where the environment names no process above this one (a worker on another machine), or
    on a system without pidfds.
    """
    server = server_pid()
    if server is None or not _HAS_PIDFDS:
        return False
    below = _below(server)
    return bool(below) and _watch_in_thread(server, below)


def _watch_in_thread(server: int, processes: list[int]) -> bool:
    try:
        first, *others = [os.pidfd_open(each) for each in (server, *processes)]
    except OSError:
        return False
    watch = threading.Thread(target=_watch, args=(first, others), name="server-life", daemon=True)
    watch.start()
    return True


def _watch(server: int, processes: list[int]) -> None:
    """Wait for the server's end, then end the processes, the uppermost first."""
    poll = select.poll()
    poll.register(server, select.POLLIN)
    poll.poll()
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, number)
        time.sleep(GRACE_SECONDS)


def _below(ancestor: int) -> list[int]:
    """The processes from below an ancestor down to this one; empty if it is none any more."""
    found = [os.getpid()]
    while found[0] > 1:
        try:
            stat = Path(f"/proc/{found[0]}/stat").read_text(errors="replace")
        except OSError:
            return []
        # The name, in brackets, may hold anything; state and parent follow it.
        parent = int(stat.rpartition(")")[2].split()[1])
        if parent == ancestor:
            return found
        found.insert(0, parent)
    return []
