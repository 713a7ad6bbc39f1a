"""What an answer of any API says, surface by surface."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from server.sse import EventSplitter, event_data
from server.surfaces import logprob_tokens, written_texts


def surfaces_of(body: bytes, *, stream: bool) -> dict[str, str]:
    """The texts of an answer by surface; those of a stream's deltas are joined.

    Raises:
        ValueError: it is not JSON, or a stream of it.
    """
    found: dict[str, str] = {}
    for part in _events(body) if stream else [json.loads(body)]:
        for surface, text in _said(part):
            found[surface] = found.get(surface, "") + text
    return found


def _events(body: bytes) -> Iterator[Any]:
    for event in EventSplitter().feed(body):
        data = event_data(event)
        if data is not None and data.strip() != b"[DONE]":
            yield json.loads(data)


def _said(part: Any) -> Iterator[tuple[str, str]]:
    for choice in part.get("choices") or ():
        index = choice["index"]
        for path, text in written_texts(choice):
            yield f"choice {index} {path[-1]}", text
        yield f"choice {index} logprobs", "".join(logprob_tokens(choice))
    if "delta" in part:
        yield from _block(part["delta"])
    for block in part.get("content") or ():
        yield from _block(block)
    if "error" in part:
        yield "error", json.dumps(part["error"], ensure_ascii=False)


def _block(block: Any) -> Iterator[tuple[str, str]]:
    for key in ("text", "thinking", "partial_json", "name"):
        if isinstance(block.get(key), str):
            yield key, block[key]
    if isinstance(block.get("input"), dict):
        yield "input", json.dumps(block["input"], ensure_ascii=False)
