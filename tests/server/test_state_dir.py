"""The state directory: its owner's, and of use."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from server.errors import StartFault
from server.state_dir import own_directory

NOBODY = 65534


def test_it_is_its_owners_only(tmp_path: Path) -> None:
    """Also one that was open to others; nothing is left in it."""
    (tmp_path / "state").mkdir(mode=0o755)
    own_directory(tmp_path / "state")
    own_directory(tmp_path / "a" / "b")

    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    assert list((tmp_path / "state").iterdir()) == []


def test_one_that_cannot_be_written_stops_the_start() -> None:
    """With one sentence, before a model is loaded."""
    directory = Path(tempfile.mkdtemp(prefix="lethegate-"))  # pytest's own are closed to nobody
    is_root = os.geteuid() == 0
    try:
        if is_root:  # who may write anywhere
            os.chown(directory, NOBODY, NOBODY)
            os.seteuid(NOBODY)
        directory.chmod(0o500)
        with pytest.raises(StartFault, match=r"cannot use the state directory .*denied"):
            own_directory(directory)
    finally:
        if is_root:
            os.seteuid(0)
        directory.rmdir()
