"""Waiting for one's turn between processes: a lock of the kernel, gone with whoever held it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def held(file: Path, *, shared: bool = False) -> Iterator[None]:
    """Wait for the lock of a file and hold it, alone or with all who share it.

    File and folder are made, owner-only, where they are missing.
    """
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
