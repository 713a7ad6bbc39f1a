"""Which snapshots are deleted."""

from __future__ import annotations

import os
import time
from pathlib import Path

from server.retention import GRACE_SECONDS, prune_snapshots


def _snapshot(directory: Path, name: str, age_seconds: float) -> Path:
    snapshot = directory / name
    snapshot.mkdir()
    (snapshot / "manifest.json").write_text("{}")
    then = time.time() - age_seconds
    os.utime(snapshot, (then, then))
    return snapshot


def test_only_old_unwanted_snapshots_go(tmp_path: Path) -> None:
    """Kept and recent snapshots stay, and so does whatever is no snapshot."""
    old = GRACE_SECONDS + 60
    kept = _snapshot(tmp_path, "a" * 64, old)
    recent = _snapshot(tmp_path, "b" * 64, 0)
    draft = _snapshot(tmp_path, "draft", old)
    doomed = _snapshot(tmp_path, "c" * 64, old)
    leftover = _snapshot(tmp_path, ".doomed-" + "d" * 64, old)

    assert prune_snapshots(tmp_path, {"a" * 64}) == 1
    assert kept.exists()
    assert recent.exists()
    assert draft.exists()
    assert not doomed.exists()
    assert not leftover.exists()


def test_missing_directory(tmp_path: Path) -> None:
    """Before the first policy there is nothing to delete."""
    assert prune_snapshots(tmp_path / "snapshots", set()) == 0
