"""The audit's files: appended to by every process of a machine, rotated, owner-only.

A file is named by its first record's number; the newest is the one that grows. `head.json` names
the first record that is kept and the last one that was written, so that a file whose end was cut
off shows. What a killed process left half written is cut away by whoever writes next.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from server.audit.chain import Link, link_of, linked
from server.file_lock import held

_BLOCK = 64 * 1024
_LONGEST_LINE = 256 * 1024


class AuditFiles:
    """The files in a directory; safe to share between processes."""

    def __init__(self, directory: Path, max_bytes: int, keep: int) -> None:
        """Rotate before a file exceeds `max_bytes`; keep the newest `keep` files."""
        self._directory, self._max_bytes, self._keep = directory, max_bytes, keep
        # Path, size and last link after the last own write, which need not be read again.
        self._known: tuple[Path, int, Link] | None = None
        # Files that were written to since they were last forced to disk, and what has new names.
        self._unsynced: set[Path] = set()

    def append(self, records: Sequence[Mapping[str, Any]], *, sync: bool) -> None:
        """Add records, all or none; `sync`: they survive a power cut when this returns.

        Raises:
            OSError: they cannot be written; none is.
        """
        with held(self._directory / "lock"):
            path, size, last = self._end()
            lines = []
            for record in records:
                line, last = linked(record, last)
                lines.append(line)
            content = b"".join(lines)
            if size and size + len(content) > self._max_bytes:
                path = self._directory / _name(last.sequence - len(records) + 1)
                size = 0
            _write(path, size, content, sync)
            if not sync:
                self._unsynced.update({path} if size else {path, self._directory})
            self._known = (path, size + len(content), last)
            self._note(last)

    def sync(self) -> None:
        """Make what was appended survive a power cut, also in files that are full by now.

        Raises:
            OSError: it is not sure to; the next call tries again.
        """
        for path in tuple(self._unsynced):
            with suppress(FileNotFoundError):  # it was turned over
                _sync(path)
            self._unsynced.discard(path)

    def moment(self) -> tuple[int, Link, list[BinaryIO]]:
        """The first and the last record that there are now, and the open files to read them in."""
        with held(self._directory / "lock"):
            first, last = read_head(self._directory)
            return first, last, [path.open("rb") for path in paths(self._directory)]

    def newest(self, limit: int, before: int | None, event: str | None) -> list[dict[str, Any]]:
        """Up to `limit` records, newest first, of one event or any, numbered below `before`."""
        found: list[dict[str, Any]] = []
        for path in reversed(paths(self._directory)):
            if before is not None and _first(path) >= before:
                continue
            for line in _backwards(path):
                try:
                    record = json.loads(line)
                except ValueError:
                    continue  # cut off where a process was killed
                if len(found) >= limit:
                    return found
                if before is not None and record["sequence"] >= before:
                    continue
                if event in (None, record["event"]):
                    found.append(record)
        return found

    def _end(self) -> tuple[Path, int, Link]:
        """The file to append to, its size without a half record, and what it is linked to."""
        files = paths(self._directory)
        noted = read_head(self._directory)[1]
        if not files:
            return self._directory / _name(noted.sequence + 1), 0, noted
        path = files[-1]
        size = path.stat().st_size
        if self._known is not None and self._known[:2] == (path, size):
            return self._known
        whole, line = _last_line(path, size)
        known = link_of(line)
        last = Link() if known is None else known[1]
        # Records that are noted but not there were taken away: the gap is to be seen.
        return path, whole, last if last.sequence >= noted.sequence else noted

    def _note(self, last: Link) -> None:
        files = paths(self._directory)
        for path in files[: -self._keep]:
            path.unlink(missing_ok=True)
        first = _first(files[-self._keep :][0])
        draft = self._directory / ".head.json"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump({"first": first, "sequence": last.sequence, "hash": last.hash}, file)
        draft.rename(self._directory / "head.json")


def paths(directory: Path) -> list[Path]:
    """The audit's files, oldest first."""
    return sorted(directory.glob("audit-*.jsonl"))


def read_head(directory: Path) -> tuple[int, Link]:
    """The first record that is kept, and the link of the last one that was written."""
    try:
        head = json.loads((directory / "head.json").read_bytes())
        return int(head["first"]), Link(int(head["sequence"]), str(head["hash"]))
    except (OSError, ValueError, LookupError, TypeError):
        return 1, Link()


def _write(path: Path, size: int, content: bytes, sync: bool) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.ftruncate(descriptor, size)
        try:
            written = os.pwrite(descriptor, content, size)
            if written != len(content):
                raise OSError(28, "No space left on device")
            if sync:
                os.fsync(descriptor)
                if not size:
                    _sync(path.parent)
        except OSError:
            os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _last_line(path: Path, size: int) -> tuple[int, bytes]:
    """Where the last whole line of a file ends, and the line."""
    with path.open("rb") as file:
        start = max(0, size - _LONGEST_LINE)
        file.seek(start)
        tail = file.read(size - start)
    end = tail.rfind(b"\n") + 1
    return start + end, tail[:end].rstrip(b"\n").rpartition(b"\n")[2]


def _backwards(path: Path) -> Iterator[bytes]:
    """The lines of a file from its end, read block by block; none if it was rotated away."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        end, rest = file.seek(0, os.SEEK_END), b""
        while end:
            start = max(0, end - _BLOCK)
            file.seek(start)
            first, *lines = (file.read(end - start) + rest).split(b"\n")
            yield from (line for line in reversed(lines) if line)
            end, rest = start, first
        if rest:
            yield rest


def _name(sequence: int) -> str:
    return f"audit-{sequence:016}.jsonl"


def _first(path: Path) -> int:
    return int(path.stem.removeprefix("audit-"))
