"""Streamed chunks that differ from an earlier one in nothing but one string, read unparsed.

Almost all chunks of a stream are such: the same bytes around the next piece of text. Where that
piece needs no JSON escape, putting another such piece in its place changes the string and nothing
else, so an event that begins and ends as a parsed one did has the same meaning with another text.
"""

from __future__ import annotations

from dataclasses import dataclass

from server.surfaces import Path

MAX_FORMS = 8


@dataclass(frozen=True, slots=True)
class PlainChunk:
    """What a chunk says: a text of one surface of one choice, and nothing more."""

    index: int
    path: Path
    text: str


@dataclass(frozen=True, slots=True)
class _Form:
    index: int
    path: Path
    head: bytes
    tail: bytes


class PlainChunks:
    """Forms met in one stream, the newest of each choice."""

    def __init__(self) -> None:
        self._forms: dict[int, _Form] = {}

    def learn(self, event: bytes, chunk: PlainChunk) -> None:
        """Remember the form of an event that was parsed and says just this."""
        text = chunk.text.encode("utf-8", "surrogatepass")
        if not text or not _is_bare(text):
            return
        string = f'"{chunk.path[-1]}":"'.encode()
        head, found, tail = event.partition(string + text + b'"')
        if found and string not in tail and len(self._forms) < MAX_FORMS:
            form = _Form(chunk.index, chunk.path, head + string, b'"' + tail)
            self._forms[chunk.index] = form

    def read(self, event: bytes) -> PlainChunk | None:
        """What an event says if it has a known form; None if it has to be parsed."""
        for form in self._forms.values():
            if event.startswith(form.head) and event.endswith(form.tail):
                text = event[len(form.head) : len(event) - len(form.tail)]
                if len(form.head) + len(form.tail) <= len(event) and _is_bare(text):
                    return PlainChunk(form.index, form.path, text.decode())
        return None


def _is_bare(text: bytes) -> bool:
    """Whether these bytes stand in a JSON string for themselves."""
    return not (b'"' in text or b"\\" in text or b"\n" in text or b"\r" in text)
