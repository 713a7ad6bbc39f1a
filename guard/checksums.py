"""Checking the files of a snapshot against its manifest, if need be in a process of its own.

As a program (`python -m guard.checksums DIRECTORY`) it exits with 0 if all files are sound. It runs
only when a core has nothing else to do, and imports nothing that takes long.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

MANIFEST = "manifest.json"
# Hashed in a fraction of a millisecond.
_BLOCK = 1 << 18
_PATIENCE_SECONDS = 2.0


def sha256(path: Path, pause: Callable[[], object] = lambda: None) -> str:
    """The hexadecimal digest of a file; `pause` is called after every block.

    Raises:
        OSError: it cannot be read.
    """
    digest, block = hashlib.sha256(), memoryview(bytearray(_BLOCK))
    with path.open("rb", buffering=0) as file:
        while read := file.readinto(block):
            digest.update(block[:read])
            pause()
    return digest.hexdigest()


def damaged_file(directory: Path, pause: Callable[[], object] = lambda: None) -> str | None:
    """The name of the first file that is not what the directory's manifest says; None if all are.

    Raises:
        OSError, ValueError, KeyError: there is no such manifest.
    """
    manifest = json.loads((directory / MANIFEST).read_bytes())
    for name, expected in manifest["files"].items():
        try:
            sound = sha256(directory / name, pause) == expected["sha256"]
        except (OSError, ValueError):  # ValueError: a name that no file can have
            sound = False
        if not sound:
            return str(name)
    return None


def are_sound_elsewhere(directory: Path) -> bool:
    """Whether another process finds all files sound, without taking anything from this one.

    False says only that it did not, perhaps because no core had time for it.
    """
    command = [sys.executable, "-m", "guard.checksums", str(directory.absolute())]
    try:
        # From the folder that holds this package, so that it is found.
        home = Path(__file__).parents[1]
        process = subprocess.Popen(command, cwd=home, stderr=subprocess.DEVNULL)
    except OSError:
        return False
    with process:
        try:
            return process.wait(_PATIENCE_SECONDS) == 0
        except subprocess.TimeoutExpired:
            process.kill()
            return False


def _main() -> int:
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    return int(damaged_file(Path(sys.argv[1])) is not None)


if __name__ == "__main__":
    sys.exit(_main())
