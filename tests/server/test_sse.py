"""Server-sent events: split anywhere, joined unchanged."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from server.sse import EventSplitter, encode_event, event_data

_EVENTS = st.lists(
    st.one_of(
        st.just(b": keep-alive\n\n"),
        st.just(b"data: [DONE]\n\n"),
        st.just(b"event: x\r\ndata: 1\r\n\r\n"),
        st.builds(lambda text: encode_event({"text": text}), st.text(max_size=5)),
    ),
    max_size=5,
)


@given(_EVENTS, st.integers(1, 7))
def test_chunking_does_not_change_events(events: list[bytes], size: int) -> None:
    """However the bytes arrive, the same events come out, byte for byte."""
    raw, splitter = b"".join(events), EventSplitter()
    found = [e for i in range(0, len(raw), size) for e in splitter.feed(raw[i : i + size])]

    assert found == events
    assert splitter.rest == b""


def test_an_unfinished_event_waits() -> None:
    """Nothing is taken for an event before its blank line."""
    splitter = EventSplitter()

    assert list(splitter.feed(b"data: 1\n")) == []
    assert splitter.rest == b"data: 1\n"
    assert list(splitter.feed(b"\ndata")) == [b"data: 1\n\n"]


def test_data_of_an_event() -> None:
    """Data lines are joined, other lines ignored, comments have none."""
    assert event_data(b"event: x\ndata: a\ndata:b\n\n") == b"a\nb"
    assert event_data(b": keep-alive\n\n") is None


def test_events_are_written_compactly() -> None:
    """Our own events look like vLLM's."""
    assert encode_event({"a": "é", "b": [1]}) == 'data: {"a":"é","b":[1]}\n\n'.encode()
