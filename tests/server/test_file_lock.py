"""Whose turn it is."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from server.file_lock import held


@pytest.mark.parametrize("shared", [True, False])
def test_who_holds_it_alone_waits_for_all_others(tmp_path: Path, shared: bool) -> None:
    """Those who share it do not wait for each other; file and folder are owner-only."""
    file, entered = tmp_path / "folder" / "lock", threading.Event()

    def enter() -> None:
        with held(file, shared=shared):
            entered.set()

    other = threading.Thread(target=enter)
    with held(file, shared=True):
        other.start()
        assert entered.wait(60 if shared else 0.2) is shared
    other.join(60)

    assert entered.is_set()
    assert file.stat().st_mode & 0o077 == file.parent.stat().st_mode & 0o077 == 0
