"""An exchange's bytes become an answer or a failure, whatever they are."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.bench.answers import Exchange, read_answer

USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":4,"completion_tokens":3}}\n\n'
DONE = b"data: [DONE]\n\n"

Chunk = Callable[..., bytes]


def exchange(*pieces: tuple[float, bytes], status: int | None = 200, fault: str = "") -> Exchange:
    return Exchange(64, 1.0, 9.0, status, pieces, fault)


class TestReadAnswer:
    def test_times_are_those_of_the_events_with_text(self, make_chunk: Chunk) -> None:
        """The role chunk, the finish and the usage are no tokens."""
        answer = read_answer(
            exchange(
                (2.0, make_chunk({"role": "assistant", "content": ""})),
                (3.0, make_chunk({"content": "a"}) + make_chunk({"content": "b"})),
                (5.0, make_chunk({"content": "c"})),
                (6.0, make_chunk({}, finish_reason="length") + USAGE + DONE),
            )
        )

        assert answer.failure == ""
        assert answer.arrivals == (3.0, 3.0, 5.0)
        assert answer.first_token_seconds == 2.0
        assert answer.gaps == [(3.0, 3.0), (3.0, 5.0)]
        assert (answer.tokens, answer.finish_reason) == (3, "length")

    def test_an_event_in_two_pieces_arrives_with_its_second(self, make_chunk: Chunk) -> None:
        """Nobody has read half an event."""
        event = make_chunk({"content": "a"})
        rest = make_chunk({}, finish_reason="length") + USAGE + DONE
        answer = read_answer(exchange((2.0, event[:20]), (3.0, event[20:] + rest)))

        assert answer.arrivals == (3.0,)

    @pytest.mark.parametrize(
        ("body", "failure"),
        [
            (b"", "unfinished stream"),
            (USAGE + DONE, "unfinished stream"),
            (b'data: {"error":{"message":"x"}}\n\n' + DONE, "error event"),
            (b"data: {nonsense\n\n" + DONE, "unreadable event"),
            (b'data: {"choices":[{}]}\n\n' + DONE, "unreadable event"),
            (b"data: [1]\n\n" + DONE, "unreadable event"),
        ],
    )
    def test_a_bad_stream_is_a_failure(self, body: bytes, failure: str) -> None:
        """What is not a whole answer is not measured as one."""
        assert read_answer(exchange((2.0, body))).failure == failure

    def test_an_answer_without_text_is_a_failure(self, make_chunk: Chunk) -> None:
        """Else it would have no time to its first token."""
        body = make_chunk({}, finish_reason="length") + USAGE + DONE

        assert read_answer(exchange((2.0, body))).failure == "no text"

    def test_status_and_fault_are_failures(self) -> None:
        """An error's body is not read as a stream."""
        assert read_answer(exchange((2.0, b"{}"), status=503)).failure == "status 503"
        assert read_answer(exchange(status=None, fault="TimeoutError")).failure == "TimeoutError"

    @given(st.lists(st.binary(max_size=60), max_size=5))
    def test_no_bytes_raise(self, pieces: list[bytes]) -> None:
        """A server may send anything."""
        answer = read_answer(exchange(*((2.0, b"data: " + piece + b"\n\n") for piece in pieces)))

        assert answer.failure

    @given(st.integers(1, 40), st.data())
    def test_how_the_stream_is_cut_changes_no_token(self, count: int, data: st.DataObject) -> None:
        """Pieces of a body are an accident of the network."""
        one = {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "length"}]}
        body = (b"data: " + json.dumps(one).encode() + b"\n\n") * count + USAGE + DONE
        cut = data.draw(st.integers(0, len(body)))
        answer = read_answer(exchange((2.0, body[:cut]), (3.0, body[cut:])))

        assert answer.failure == ""
        assert len(answer.arrivals) == count
