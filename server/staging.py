"""Folders in the state directory in which a backup keeps second names of files while it runs.

Each has a lock of the kernel, which is gone with the process that made it. One that nobody holds is
a killed backup's: its names would keep on disk what was erased since.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from server.log import fault_fields, get_logger

_PREFIX, _LOCK, _CONTENT = ".backup-", "lock", "content"

log = get_logger("backup")


@contextmanager
def staging(state_dir: Path) -> Iterator[Path]:
    """An empty, owner-only folder that is removed at the end.

    Raises:
        OSError: it cannot be made.
    """
    folder, lock = _made(state_dir)
    try:
        content = folder / _CONTENT
        content.mkdir(mode=0o700)
        yield content
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def discard_left(state_dir: Path) -> None:
    """Remove the folders of backups that were killed, never that of one that runs."""
    for folder in state_dir.glob(f"{_PREFIX}*"):
        try:
            _discard(folder)
        except (FileNotFoundError, BlockingIOError):
            pass  # its backup has just ended, or runs
        except OSError as error:
            log.warning("backup_left_behind", **fault_fields(error))


def _discard(folder: Path) -> None:
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def _made(state_dir: Path) -> tuple[Path, int]:
    """A new folder and its lock, held."""
    while True:
        folder = state_dir / f"{_PREFIX}{uuid.uuid4().hex}"
        folder.mkdir(mode=0o700)
        try:
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:
            continue  # taken for a killed one's before it had its lock
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.fstat(lock).st_nlink:
            return folder, lock
        os.close(lock)
