"""A worker that ends when its server has gone.

vLLM's engine and worker processes notice the end of a server that says so, but not that of one that
was killed (SIGKILL, a lack of memory): they stay, with the device's memory, for ever, and the
server that is started in its place finds none. The server tells its pid in the environment.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

SERVER_PID = "LETHEGATE_INTERNAL_SERVER_PID"
GRACE_SECONDS = 10.0


def end_with_server() -> bool:
    """Have this process, and those between it and its server, end when that has gone.

    Gives whether there is such a server: none is where the environment names no process above this
    one (a worker on another machine), or on a system without pidfds.
    """
    pid = os.environ.get(SERVER_PID, "")
    if not pid.isdigit() or not hasattr(os, "pidfd_open"):
        return False
    try:
        below = _below(int(pid))
        watched = [os.pidfd_open(each) for each in (int(pid), *below)] if below else []
    except OSError:
        return False
    if watched:
        server, *processes = watched
        threading.Thread(
            target=_watch, args=(server, processes), name="server-life", daemon=True
        ).start()
    return bool(watched)


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
    """The processes from below an ancestor down to this one; empty if it is none.

    Raises:
        OSError: one of them has ended.
    """
    found = [os.getpid()]
    while found[0] > 1:
        stat = Path(f"/proc/{found[0]}/stat").read_text(errors="replace")
        # The name, in brackets, may hold anything; state and parent follow it.
        parent = int(stat.rpartition(")")[2].split()[1])
        if parent == ancestor:
            return found
        found.insert(0, parent)
    return []
