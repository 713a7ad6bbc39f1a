"""Deleting policy snapshots that nobody can need any more."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Collection
from pathlib import Path

GRACE_SECONDS = 600.0
_DIGEST = re.compile(r"[0-9a-f]{64}")
_DOOMED = ".doomed-"


def prune_snapshots(directory: Path, kept: Collection[str]) -> int:
    """Delete the snapshots that are not in `kept`; returns how many.

    One that was touched within the grace time stays, and so does everything that is not named as a
    snapshot. A directory is renamed before it is emptied, so that half of one is never found under
    a digest.
    """
    if not directory.is_dir():
        return 0
    for leftover in directory.glob(_DOOMED + "*"):
        shutil.rmtree(leftover, ignore_errors=True)
    deleted = 0
    for snapshot in list(directory.iterdir()):
        if not _DIGEST.fullmatch(snapshot.name) or snapshot.name in kept:
            continue
        if time.time() - snapshot.stat().st_mtime < GRACE_SECONDS:
            continue
        doomed = snapshot.with_name(_DOOMED + snapshot.name)
        snapshot.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
        deleted += 1
    return deleted
