"""Counters that all gateways of one machine share: a small memory-mapped file.

So a limit holds for a key however many API processes serve it (`--api-server-count`). An entry per
key, found by a hash of its id within a few places; a key that comes new takes a free place or the
one that was idle longest. One lock around each change, dropped by the kernel with its process.

Requests under way are counted per process, in a column that the process holds a lock on: what a
killed process left behind is cleared when its column is found unlocked.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from server.errors import StartFault

# Entries for `server.keys.store.MAX_KEYS` keys with room to spare: 1 MiB, and 2 MiB of columns.
ENTRIES = 16_384
PROCESSES = 64
_PROBES = 64
_ENTRY = struct.Struct("<16s5d")
_ENTRY_BYTES = 64
_ROW = struct.Struct(f"<{PROCESSES}H")
_CELL = struct.Struct("<H")
_COLUMNS_AT = ENTRIES * _ENTRY_BYTES
_SIZE = _COLUMNS_AT + ENTRIES * _ROW.size
_MOST = 2**16 - 1


@dataclass(slots=True)
class Entry:
    """A key's counters: what was spent, at which moment (`time.monotonic`), and its last use.

    `used_at` is in seconds since the epoch, 0 before the first use.
    """

    requests: float = 0.0
    requests_at: float = 0.0
    tokens: float = 0.0
    tokens_at: float = 0.0
    used_at: float = 0.0


class Counters:
    """The shared file as one process uses it."""

    def __init__(self, directory: Path) -> None:
        """Open the file, making it where it is missing, and take a column.

        Raises:
            StartFault: it cannot be made, or too many gateways run on this machine.
        """
        self._locks = directory / "gateways"
        try:
            self._locks.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(directory / "counters", os.O_RDWR | os.O_CREAT, 0o600)
            # Written through a mapping, a hole in a file on a full disk would kill the process.
            os.posix_fallocate(self._file, 0, _SIZE)
            self._map = mmap.mmap(self._file, _SIZE)
            self._process, self._lock = self._take_column()
        except OSError as error:
            raise StartFault(f"cannot count requests in {directory}: {error.strerror}") from None

    def close(self) -> None:
        """Let go of the column and the file."""
        os.close(self._lock)
        self._map.close()
        os.close(self._file)

    @contextmanager
    def entry(self, key_id: str) -> Iterator[tuple[Entry, int]]:
        """A key's entry and its place; what is changed inside the block is kept."""
        name = _name(key_id)
        with self._locked():
            place = self._place(name)
            entry = Entry(*_ENTRY.unpack_from(self._map, place * _ENTRY_BYTES)[1:])
            try:
                yield entry, place
            finally:
                values = (entry.requests, entry.requests_at, entry.tokens, entry.tokens_at)
                at = place * _ENTRY_BYTES
                _ENTRY.pack_into(self._map, at, name, *values, entry.used_at)

    def under_way(self, place: int, most: int | None = None) -> int:
        """Requests that run, inside the block of `entry`; from `most` on without dead ones."""
        running = sum(self._row(place))
        if most is not None and running >= most:
            self._clear_dead(place)
            running = sum(self._row(place))
        return running

    def begin(self, place: int) -> None:
        """Count a request that begins, inside the block of `entry`."""
        at = self._cell(place)
        _CELL.pack_into(self._map, at, min(_MOST, _CELL.unpack_from(self._map, at)[0] + 1))

    def end(self, place: int) -> None:
        """Count a request that has ended, inside the block of `entry`."""
        at = self._cell(place)
        _CELL.pack_into(self._map, at, max(0, _CELL.unpack_from(self._map, at)[0] - 1))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def _place(self, name: bytes) -> int:
        first = int.from_bytes(name[:8], "little")
        places = [(first + step) % ENTRIES for step in range(_PROBES)]
        idle, longest = places[0], float("inf")
        for place in places:
            found, *_, used_at = _ENTRY.unpack_from(self._map, place * _ENTRY_BYTES)
            if found == name:
                return place
            if not any(found):
                idle = place
                break
            if used_at < longest:
                idle, longest = place, used_at
        _ENTRY.pack_into(self._map, idle * _ENTRY_BYTES, name, 0.0, 0.0, 0.0, 0.0, 0.0)
        _ROW.pack_into(self._map, _COLUMNS_AT + idle * _ROW.size, *([0] * PROCESSES))
        return idle

    def _row(self, place: int) -> tuple[int, ...]:
        return _ROW.unpack_from(self._map, _COLUMNS_AT + place * _ROW.size)

    def _cell(self, place: int, process: int | None = None) -> int:
        column = self._process if process is None else process
        return _COLUMNS_AT + place * _ROW.size + column * _CELL.size

    def _clear_dead(self, place: int) -> None:
        for process, running in enumerate(self._row(place)):
            if running and process != self._process:
                lock = self._try_column(process)
                if lock is not None:
                    self._clear(process)
                    os.close(lock)

    def _clear(self, process: int) -> None:
        for place in range(ENTRIES):
            _CELL.pack_into(self._map, self._cell(place, process), 0)

    def _take_column(self) -> tuple[int, int]:
        with self._locked():
            for process in range(PROCESSES):
                lock = self._try_column(process)
                if lock is not None:
                    self._clear(process)
                    return process, lock
        raise OSError(0, f"more than {PROCESSES} gateways", f"more than {PROCESSES} gateways")

    def _try_column(self, process: int) -> int | None:
        lock = os.open(self._locks / f"{process}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        return lock


def last_uses(directory: Path, key_ids: Sequence[str]) -> dict[str, float]:
    """When keys were last used on this machine, in seconds since the epoch; read only."""
    try:
        with (directory / "counters").open("rb") as file:
            content = file.read(_COLUMNS_AT)
    except OSError:
        return {}
    if len(content) != _COLUMNS_AT:
        return {}
    by_name = {_name(key_id): key_id for key_id in key_ids}
    entries = (_ENTRY.unpack_from(content, n * _ENTRY_BYTES) for n in range(ENTRIES))
    return {by_name[e[0]]: e[5] for e in entries if e[0] in by_name and e[5]}


def _name(key_id: str) -> bytes:
    return hashlib.blake2b(key_id.encode(), digest_size=16).digest()
