"""Texts to index and to look up: what Python packages on this machine bring along."""

from __future__ import annotations

import hashlib
import random
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from server.bench.errors import InputMissing

_SUFFIXES = frozenset((".py", ".pyi", ".md", ".rst", ".txt", ".h", ".hpp", ".cuh"))
_LARGEST = 400_000
_HELD_OUT = 40
_CHUNK_LINES = 6
_DOCUMENT_CHARS = 4000

Symbols = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Library:
    """Paths of texts with different content: those to index, and those never indexed."""

    indexed: tuple[Path, ...]
    held_out: tuple[Path, ...]


def library(seed: int = 0) -> Library:
    """All texts of the installed packages, each content once, in random order.

    Raises:
        InputMissing: there are next to none.
    """
    seen: set[bytes] = set()
    parts: tuple[list[Path], list[Path]] = ([], [])
    for path in sorted(Path(sysconfig.get_path("purelib")).rglob("*")):
        if path.suffix not in _SUFFIXES or not path.is_file():
            continue
        if not 500 < path.stat().st_size < _LARGEST:
            continue
        digest = hashlib.blake2b(path.read_bytes(), digest_size=16).digest()
        if digest not in seen:
            seen.add(digest)
            parts[digest[0] % _HELD_OUT == 0].append(path)
    if len(parts[0]) < 100 or not parts[1]:
        raise InputMissing("there are too few texts among the installed packages")
    for part in parts:
        random.Random(seed).shuffle(part)  # noqa: S311
    return Library(tuple(parts[0]), tuple(parts[1]))


def corpus(texts: Library, size: int) -> Iterator[str]:
    """Texts of `size` bytes in all: the library's, then new ones spliced from lines of them."""
    left = size
    for path in texts.indexed:
        text = path.read_text(encoding="utf-8", errors="replace")
        left -= len(text.encode("utf-8", "replace"))
        yield text
        if left <= 0:
            return
    yield from _spliced(texts, left)


def _spliced(texts: Library, left: int) -> Iterator[str]:
    chosen = random.Random(1)  # noqa: S311
    chunks: list[str] = []
    for path in texts.indexed[:3000]:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        starts = range(0, len(lines), _CHUNK_LINES)
        chunks += ["".join(lines[at : at + _CHUNK_LINES]) for at in starts]
    while left > 0:
        parts: list[str] = []
        length = 0
        while length < _DOCUMENT_CHARS:
            parts.append(chosen.choice(chunks))
            length += len(parts[-1])
        text = "".join(parts)
        left -= len(text.encode("utf-8", "replace"))
        yield text


def outputs(
    texts: Library, number: int, size: int, words: int = 1000, copied: int = 100
) -> list[str]:
    """Texts of `words` words that were never indexed, each with two copied passages of `copied`.

    The passages come from what `corpus` gives for `size` bytes, so every larger corpus holds them.
    """
    chosen = random.Random(2)  # noqa: S311
    source = " ".join(corpus(texts, size)).split()
    fresh = " ".join(corpus(Library(texts.held_out, ()), 8_000_000)).split()
    found = []
    for _ in range(number):
        start = chosen.randrange(len(fresh) - words)
        text = fresh[start : start + words]
        for at in (words // 5, words * 3 // 5):
            begin = chosen.randrange(len(source) - copied)
            text[at : at + copied] = source[begin : begin + copied]
        found.append(" ".join(text))
    return found
