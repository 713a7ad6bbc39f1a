"""How gateways hand their counters to the control process: a file each in the state directory.

A gateway writes all that it has counted since it started, again and again, whole and then renamed,
so nothing is lost while there is no control process, and reading it twice counts nothing twice. It
holds a lock that the kernel drops with it: what an ended gateway left behind is known for final.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.errors import StartFault
from server.statistics.counts import RequestCounts, TargetCounts
from server.statistics.tally import Tallied


class StatisticsFile:
    """The file of this process."""

    def __init__(self, directory: Path) -> None:
        """Take a name of its own.

        Raises:
            StartFault: the directory cannot be written to.
        """
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock, self._path = _take_name(directory)
        except OSError as error:
            raise StartFault(f"cannot count in {directory}: {error.strerror}") from None

    def write(self, tallied: Tallied) -> None:
        """Tell the counters as they are now.

        Raises:
            OSError: the disk is full, or the directory is gone.
        """
        draft = self._path.with_suffix(".draft")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(content_of(tallied), file, separators=(",", ":"))
        draft.rename(self._path)

    def close(self) -> None:
        """Let go of the name: what is written is final."""
        # Closing is not enough: a process that another thread starts has it open for a moment, too.
        fcntl.flock(self._lock, fcntl.LOCK_UN)
        os.close(self._lock)


@dataclass(frozen=True, slots=True)
class Source:
    """One gateway's file; `has_ended` if nothing more will be written to it."""

    path: Path
    has_ended: bool

    @property
    def name(self) -> str:
        """Differs for every gateway that ever ran."""
        return self.path.stem

    def changed(self) -> tuple[int, int]:
        """A value that differs after every writing."""
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            return (0, 0)
        return (stat.st_mtime_ns, stat.st_ino)

    def read(self) -> Tallied:
        """What it says; nothing if it was never written.

        Raises:
            OSError, ValueError: it cannot be read, or was not written to its end.
        """
        try:
            content = json.loads(self.path.read_bytes())
        except FileNotFoundError:
            return Tallied()
        return tallied_of(content)

    def delete(self) -> None:
        """Remove what an ended gateway left."""
        for path in (self.path, self.path.with_suffix(".draft"), self.path.with_suffix(".lock")):
            path.unlink(missing_ok=True)


def content_of(tallied: Tallied) -> dict[str, Any]:
    """Counters as what JSON can say."""
    targets = {name: counts.to_numbers() for name, counts in tallied.targets.items()}
    return {"requests": tallied.requests.to_numbers(), "targets": targets}


def tallied_of(content: Mapping[str, Any]) -> Tallied:
    """The counters of such a content; numbers of a newer Lethegate are left out.

    Raises:
        ValueError: it is none.
    """
    try:
        targets = {name: TargetCounts.of(numbers) for name, numbers in content["targets"].items()}
        return Tallied(RequestCounts.of(content["requests"]), targets)
    except (AttributeError, KeyError, TypeError):
        raise ValueError("these are no counters") from None


def sources(directory: Path) -> Iterator[Source]:
    """All gateways' files, of those that run and of those that have ended.

    While one that has ended is looked at it is locked: a gateway that had not locked it yet takes
    another name if it is deleted meanwhile.
    """
    for lock in sorted(directory.glob("*.lock")):
        try:
            descriptor = os.open(lock, os.O_RDWR)
        except FileNotFoundError:
            continue
        try:
            yield Source(lock.with_suffix(".json"), _try_lock(descriptor))
        finally:
            os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _take_name(directory: Path) -> tuple[int, Path]:
    while True:
        path = directory / f"{os.getpid()}-{secrets.token_hex(6)}.lock"
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Before it was locked it looked like that of an ended gateway.
            if path.exists():
                return lock, path.with_suffix(".json")
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)
