"""Documents from files, for uploading: plain text, Markdown, JSON lines, directories, compressed.

A `.jsonl` file holds a document per line (`text`, and `source` and `metadata` where known); any
other file is one document with its path as the source. Everything is streamed: a text that is too
long for one document is cut at a line's end into several, which overlap by a few lines so that no
passage is lost at the cut.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from server.errors import ServerError
from tracing.document import Document

TEXTS = frozenset({".txt", ".md", ".markdown", ".text"})
LINES = frozenset({".jsonl", ".ndjson"})
_OPENERS: dict[str, Callable[[Any], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
}
PART_CHARS = 8_000_000
OVERLAP_CHARS = 4_000


class UnreadableFile(ServerError):
    """A file cannot be read as documents."""


def find_files(paths: list[Path]) -> list[Path]:
    """The files among the paths, and those of known kinds in their directories, sorted.

    Raises:
        UnreadableFile: there is no such path, or nothing at all to read.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(p for p in path.rglob("*") if p.is_file() and _kind(p) is not None)
        elif path.is_file():
            found.append(path)
        else:
            raise UnreadableFile(f"there is no {path}")
    if not found:
        raise UnreadableFile("there are no files to read: .txt, .md or .jsonl, plain or compressed")
    return found


def read_documents(path: Path, advance: Callable[[int], None]) -> Iterator[dict[str, Any]]:
    """A file's documents as the API takes them; `advance` is told the bytes read from disk.

    Raises:
        UnreadableFile: it is no text in UTF-8, or a line is not JSON.
    """
    lines = _kind(path) in LINES
    try:
        with _opened(path, advance) as text:
            yield from (_from_lines(path, text) if lines else _from_text(path, text))
    except UnicodeDecodeError:
        raise UnreadableFile(f"{path} is not UTF-8") from None
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise UnreadableFile(f"cannot read {path}: {error}") from None


def documents_of(path: Path) -> Iterator[Document]:
    """A file's documents for an index; see `read_documents` for errors."""
    for fields in read_documents(path, lambda count: None):
        metadata = {str(k): str(v) for k, v in dict(fields.get("metadata") or {}).items()}
        yield Document(fields["text"], str(fields["source"]), metadata)


@contextmanager
def _opened(path: Path, advance: Callable[[int], None]) -> Iterator[IO[str]]:
    with path.open("rb") as raw:
        counted = _Counted(raw, advance)
        opener = _OPENERS.get(path.suffix.lower())
        buffered = io.BufferedReader(counted, 1 << 20)
        binary: Any = buffered if opener is None else opener(buffered)
        with io.TextIOWrapper(binary, encoding="utf-8-sig", newline="") as text:
            yield text


def _from_lines(path: Path, text: IO[str]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(text, 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError):
            raise UnreadableFile(f"{path}, line {number}: not JSON") from None
        if not isinstance(fields, dict) or not isinstance(fields.get("text"), str):
            raise UnreadableFile(f"{path}, line {number}: not a document with a text")
        yield {"source": f"{path}:{number}", **fields}


def _from_text(path: Path, text: IO[str]) -> Iterator[dict[str, Any]]:
    rest = ""
    part = 0
    while block := text.read(PART_CHARS):
        rest += block
        if len(rest) < PART_CHARS:
            break
        end = rest.rfind("\n", PART_CHARS // 2) + 1 or len(rest)
        part += 1
        yield {"text": rest[:end], "source": f"{path}#{part}"}
        rest = rest[max(0, end - OVERLAP_CHARS) :]
    if rest.strip():
        yield {"text": rest, "source": f"{path}#{part + 1}" if part else str(path)}


def _kind(path: Path) -> str | None:
    """The ending that says how a file is read, below that of its compression."""
    plain = path.with_suffix("") if path.suffix.lower() in _OPENERS else path
    suffix = plain.suffix.lower()
    return suffix if suffix in TEXTS | LINES else None


class _Counted(io.RawIOBase):
    """A file that tells how many bytes were read from it."""

    def __init__(self, file: IO[bytes], advance: Callable[[int], None]) -> None:
        self._file, self._advance = file, advance

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self._advance(len(data))
        return len(data)
