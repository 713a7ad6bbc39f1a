"""The state directory: its owner's only."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from server.errors import StartFault

_POLL_SECONDS = 0.5


def own_directory(directory: Path) -> None:
    """Make a directory that only its owner can enter, and see that it can be written to.

    Raises:
        StartFault: it cannot be made or written, or belongs to someone else.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if directory.stat().st_mode & 0o077:
            directory.chmod(0o700)
        with TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise StartFault(f"cannot use the state directory {directory}: {error.strerror}") from None


@contextmanager
def locked(file: Path, patience_seconds: float = 0.0) -> Iterator[int | None]:
    """Hold a lock that the kernel releases when the process dies; the holder's pid is in the file.

    Gives None, or the pid of the process that holds it still after `patience_seconds` (0 where it
    does not say).
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        end = time.monotonic() + patience_seconds
        while not _locked(descriptor):
            if time.monotonic() >= end:
                holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
                yield int(holder) if holder.isdecimal() else 0
                return
            time.sleep(_POLL_SECONDS)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield None
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
