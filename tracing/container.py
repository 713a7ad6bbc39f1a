"""One immutable file of named arrays, with checksums, opened by memory map.

Layout: an 8-byte magic, the header's length (u64) and CRC-32 (u64), the header as JSON, then the
arrays, each at a multiple of 64 bytes. The header holds each array's dtype, shape, place and the
CRC-32 of every block of it, so a damaged place is named without reading the rest. Knows nothing
about suffix arrays.
"""

from __future__ import annotations

import json
import mmap
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from tracing.errors import IndexCorrupt, IndexMissing

Array = npt.NDArray[Any]

_MAGIC = b"LETHEIX1"
_PREFIX = 24
_ALIGN = 64
_BLOCK = 1 << 24


@dataclass(frozen=True, slots=True)
class Container:
    """An open file: `meta` as it was written, and its arrays, read-only and shared with the file.

    The arrays stay readable after the file is unlinked, for as long as anybody holds one.
    """

    path: Path
    checksum: int
    meta: Mapping[str, Any]
    arrays: Mapping[str, Array]
    blocks: Mapping[str, list[int]]
    mapped: mmap.mmap

    @property
    def bytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self.arrays.values())

    def verify(self) -> None:
        """Read everything and compare it with the checksums.

        Raises:
            IndexCorrupt: a block differs.
        """
        with self.read_through():
            for name, array in self.arrays.items():
                if _checksums(array) != self.blocks[name]:
                    raise IndexCorrupt(f"{self.path.name}: {name} is damaged")

    @contextmanager
    def read_through(self) -> Iterator[None]:
        """Everything will be read in order: let the system read ahead meanwhile."""
        self.mapped.madvise(mmap.MADV_SEQUENTIAL)
        try:
            yield
        finally:
            self.mapped.madvise(mmap.MADV_RANDOM)


def write_container(path: Path, meta: Mapping[str, Any], arrays: Mapping[str, Array]) -> int:
    """Write a file that only its owner may read, and flush it to disk; gives its checksum.

    The file must not exist. Its name is not durable until its directory is flushed
    (`flush_directory`).
    """
    flat = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    header = _header(meta, flat)
    checksum = zlib.crc32(header)
    with create(path) as file:
        file.write(_MAGIC + len(header).to_bytes(8, "little") + checksum.to_bytes(8, "little"))
        file.write(header)
        for array in flat.values():
            file.write(b"\0" * (-file.tell() % _ALIGN))
            file.write(_bytes(array))
        flush(file)
    return checksum


def open_container(path: Path) -> Container:
    """Map a file after checking its header and size. Does not read the arrays: see `verify`.

    Raises:
        IndexMissing: there is no such file.
        IndexCorrupt: the header is damaged or the file has another length.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < _PREFIX:
                raise IndexCorrupt(f"{path.name} is cut off")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            # A search touches few places, far apart: to read ahead of each would be for nothing.
            mapped.madvise(mmap.MADV_RANDOM)
    except FileNotFoundError:
        raise IndexMissing(f"there is no {path.name}") from None
    length = int.from_bytes(mapped[8:16], "little")
    checksum = int.from_bytes(mapped[16:24], "little")
    raw = mapped[_PREFIX : _PREFIX + length] if length <= size else b""
    if mapped[:8] != _MAGIC or zlib.crc32(raw) != checksum:
        raise IndexCorrupt(f"the header of {path.name} is damaged")
    try:
        return _opened(path, checksum, json.loads(raw), mapped, _PREFIX + length)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
        raise IndexCorrupt(f"the header of {path.name} cannot be read") from None


def _opened(
    path: Path, checksum: int, header: Mapping[str, Any], mapped: mmap.mmap, start: int
) -> Container:
    """The file behind its header, whose checksum fits but tells nothing of who wrote it."""
    entries = header["arrays"]
    if not all(type(entry["count"]) is int and entry["count"] >= 0 for entry in entries.values()):
        raise ValueError
    places = _places(start, entries)
    if len(mapped) != (max(places.values(), default=(0, start))[1]):
        raise IndexCorrupt(f"{path.name} has another length than its header says")
    arrays = {
        name: np.frombuffer(mapped, np.dtype(entry["dtype"]), entry["count"], places[name][0])
        if entry["count"]
        else np.empty(0, np.dtype(entry["dtype"]))
        for name, entry in entries.items()
    }
    blocks = {name: entry["crc32"] for name, entry in entries.items()}
    return Container(path, checksum, dict(header["meta"]), arrays, blocks, mapped)


def create(path: Path) -> BinaryIO:
    """Create a file for writing that only its owner may read."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def flush(file: BinaryIO) -> None:
    """Make a file's content durable."""
    file.flush()
    os.fsync(file.fileno())


def flush_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _header(meta: Mapping[str, Any], arrays: Mapping[str, Array]) -> bytes:
    entries = {
        name: {"dtype": array.dtype.str, "count": array.size, "crc32": _checksums(array)}
        for name, array in arrays.items()
    }
    return json.dumps({"meta": dict(meta), "arrays": entries}).encode()


def _places(start: int, entries: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """First and last byte (exclusive) of each array."""
    places = {}
    for name, entry in entries.items():
        start += -start % _ALIGN
        end = start + np.dtype(entry["dtype"]).itemsize * entry["count"]
        places[name] = (start, end)
        start = end
    return places


def _checksums(array: Array) -> list[int]:
    raw = _bytes(array)
    return [zlib.crc32(raw[at : at + _BLOCK]) for at in range(0, len(raw), _BLOCK)]


def _bytes(array: Array) -> memoryview:
    # An empty array cannot be cast.
    return memoryview(cast(Any, array)).cast("B") if array.size else memoryview(b"")
