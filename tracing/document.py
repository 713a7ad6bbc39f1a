"""A registered document and the word windows it is compared by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Document:
    """Text that the model must not give back, with where it came from."""

    text: str
    source: str = ""
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Window:
    """A run of whole words of a text; `start` and `end` are character offsets into it."""

    start: int
    end: int
    text: str


def windows(text: str, *, size: int = 64, stride: int = 32) -> Iterator[Window]:
    """Cut a text into overlapping windows of `size` words, `stride` words apart.

    Covers every word at least once; a text of up to `size` words gives one window, an empty
    one none. Long texts are read by windows because an encoder truncates silently.

    Raises:
        ValueError: the stride is not in 1 .. size.
    """
    if not 0 < stride <= size:
        raise ValueError(f"stride must be in 1..size, got stride={stride}, size={size}")
    bounds = _word_bounds(text)
    for first in range(0, len(bounds), stride):
        last = min(first + size, len(bounds)) - 1
        start, end = bounds[first][0], bounds[last][1]
        yield Window(start, end, text[start:end])
        if last == len(bounds) - 1:
            return


def _word_bounds(text: str) -> list[tuple[int, int]]:
    bounds: list[tuple[int, int]] = []
    start = -1
    for position, char in enumerate(text):
        if char.isspace():
            if start >= 0:
                bounds.append((start, position))
                start = -1
        elif start < 0:
            start = position
    if start >= 0:
        bounds.append((start, len(text)))
    return bounds
