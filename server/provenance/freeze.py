"""Keeping the corpora as they are for a moment: changes and a backup take turns.

A lock of the kernel on a file beside the corpora. Whoever changes them shares it, a backup has it
alone; it is gone with the process that held it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from server.file_lock import held

_NAME = "CHANGES"


def changing(corpora: Path) -> AbstractContextManager[None]:
    """Hold off backups while the corpora in a directory are changed."""
    return held(corpora / _NAME, shared=True)


def frozen(corpora: Path) -> AbstractContextManager[None]:
    """Wait until nobody changes the corpora, and hold off changes."""
    return held(corpora / _NAME)
