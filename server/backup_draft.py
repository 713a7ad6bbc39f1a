"""The file that a backup is written to before it has its name.

It lies beside its place and is locked by the kernel for as long as its process lives. One that
nobody holds is a killed backup's, and holds forget text.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from server.log import fault_fields, get_logger

# Nobody else's files end like this: they are deleted unasked.
_SUFFIX = ".lethegate-backup"

log = get_logger("backup")


@contextmanager
def draft_of(file: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """An empty, owner-only file beside `file`, open for writing; its name is gone at the end.

    Raises:
        OSError: it cannot be made.
    """
    draft, raw = _made(file)
    try:
        with raw:
            yield draft, raw
    finally:
        draft.unlink(missing_ok=True)


def discard_drafts(folder: Path) -> None:
    """Remove the drafts of backups that were killed, never that of one that runs."""
    for path in folder.glob(f".*{_SUFFIX}"):
        try:
            _discard(path)
        except (FileNotFoundError, BlockingIOError):
            pass  # its backup has just ended, or runs
        except OSError as error:
            log.warning("backup_left_behind", **fault_fields(error))


def _discard(path: Path) -> None:
    # For writing: some file systems lock for themselves only what may be written.
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    finally:
        os.close(descriptor)


def _made(file: Path) -> tuple[Path, BinaryIO]:
    """A new draft, open and locked."""
    while True:
        draft = file.with_name(f".{file.name}.{uuid.uuid4().hex}{_SUFFIX}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        raw = os.fdopen(descriptor, "wb")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return draft, raw
        raw.close()  # taken for a killed one's before it was locked
