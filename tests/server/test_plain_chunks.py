"""Chunks read without parsing say what parsing them says."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.plain_chunks import PlainChunk, PlainChunks
from server.sse import encode_event
from server.surfaces import written_texts

_TEXTS = st.text('ab "\\\u00e9\n\u200b{}:,', max_size=6) | st.sampled_from(
    ['"content":"', '","content":"x', "]}", 'a","finish_reason":"stop']
)


def _event(text: str, key: str = "content", index: int = 0, **more: Any) -> bytes:
    choice = {"index": index, "delta": {key: text}, "finish_reason": None, **more}
    return encode_event({"id": "c", "model": 'say "content":"', "choices": [choice]})


def _parsed(event: bytes) -> PlainChunk:
    choice = json.loads(event.removeprefix(b"data: "))["choices"][0]
    [(path, text)] = written_texts(choice)
    return PlainChunk(choice["index"], path, text)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(_TEXTS, st.sampled_from(["content", "reasoning"]), st.integers(0, 2)), max_size=8
    )
)
def test_what_is_read_is_what_parsing_says(said: list[tuple[str, str, int]]) -> None:
    """Whatever the texts, an event is read as its parse or not at all."""
    chunks = PlainChunks()
    for text, key, index in said:
        event = _event(text, key, index)
        read = chunks.read(event)

        assert read is None or read == _parsed(event)
        chunks.learn(event, _parsed(event))


def test_most_of_a_stream_is_read_unparsed() -> None:
    """One parsed chunk is enough for those that follow."""
    chunks = PlainChunks()
    chunks.learn(_event("The"), _parsed(_event("The")))

    assert chunks.read(_event(" café")) == PlainChunk(0, ("delta", "content"), " café")
    assert chunks.read(_event("")) == PlainChunk(0, ("delta", "content"), "")


@pytest.mark.parametrize(
    "event",
    [
        _event('quoted "word"'),
        _event("line\nbreak"),
        _event("x", key="reasoning"),
        _event("x", index=1),
        _event("x", stop_reason=7),
        _event("x", token_ids=[1]),
        _event("x").replace(b"null", b'"stop"'),
        _event("x")[:-12],
    ],
)
def test_whatever_differs_elsewhere_is_parsed(event: bytes) -> None:
    """Escapes, other fields and other ends."""
    chunks = PlainChunks()
    chunks.learn(_event("The"), _parsed(_event("The")))

    assert chunks.read(event) is None
