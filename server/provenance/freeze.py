"""Keeping the corpora as they are for a moment: changes and a backup take turns.

A lock of the kernel on a file beside the corpora. Whoever changes them shares it, a backup has it
alone; it is gone with the process that held it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NAME = "CHANGES"


@contextmanager
def changing(corpora: Path) -> Iterator[None]:
    """Hold off backups while the corpora in a directory are changed."""
    with _held(corpora, fcntl.LOCK_SH):
        yield


@contextmanager
def frozen(corpora: Path) -> Iterator[None]:
    """Wait until nobody changes the corpora, and hold off changes."""
    with _held(corpora, fcntl.LOCK_EX):
        yield


@contextmanager
def _held(corpora: Path, kind: int) -> Iterator[None]:
    corpora.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(corpora / _NAME, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, kind)
        yield
    finally:
        os.close(descriptor)
