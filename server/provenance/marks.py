"""A text cut at the edges of its matches, so that each piece can be shown as what it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from server.provenance.schemas import SpanOut


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a text. `matches` are the numbers, from 1, of those that cover it, in order.

    `refused`: one of them is.
    """

    text: str
    matches: tuple[int, ...]
    refused: bool


def pieces(text: str, spans: Sequence[SpanOut]) -> Iterator[Piece]:
    """The text in pieces, none of them empty."""
    edges = [(span.start, number) for number, span in enumerate(spans, 1)]
    edges += [(span.end, -number) for number, span in enumerate(spans, 1)]
    here: set[int] = set()
    at = 0
    for place, number in sorted([*edges, (len(text), 0)]):
        if place > at:
            refused = any(spans[n - 1].refused for n in here)
            yield Piece(text[at:place], tuple(sorted(here)), refused)
            at = place
        if number > 0:
            here.add(number)
        else:
            here.discard(-number)


def first_shown(spans: Sequence[SpanOut], most: int) -> list[SpanOut]:
    """Up to `most` spans, the refused ones first if not all can be shown."""
    if len(spans) <= most:
        return list(spans)
    # Sorting keeps the order of equals.
    return sorted(spans, key=lambda span: not span.refused)[:most]
