"""Streamed and whole answers get the same cut, however tokens and bytes are grouped."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.targets import Phrase
from guard.nets import Catch
from guard.phrase_matcher import PhraseMatcher
from guard.shield import OutputShield
from server.choice_shield import ShieldPolicy
from server.sse import DONE, encode_event
from server.stream_form import StreamForm
from server.stream_shield import StreamShield
from server.whole_shield import shield_completion

_HEAD = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
_PHRASES = PhraseMatcher([Phrase("ab b"), Phrase("ba", whole_word=False), Phrase("b a")])
_POLICY = ShieldPolicy([lambda: OutputShield([_PHRASES])], decode=lambda _: "")
_ANSWERS = st.lists(
    st.lists(st.text("ab \u200b", max_size=4), min_size=1, max_size=8), min_size=1, max_size=3
)


def _ignore(_surface: str, _caught: Catch | None) -> None:
    """Counts nothing."""


def _stream(answers: list[list[str]]) -> bytes:
    """The answers as the engine streams them, choice by choice in turn."""
    out = b""
    for position in range(max(map(len, answers))):
        for index, tokens in enumerate(answers):
            if position < len(tokens):
                finish = "stop" if position == len(tokens) - 1 else None
                choice = {"index": index, "delta": {"content": tokens[position]}}
                out += encode_event({**_HEAD, "choices": [{**choice, "finish_reason": finish}]})
    return out + DONE


def _whole(answers: list[list[str]]) -> list[tuple[str, str]]:
    """Text and finish reason of each choice of the answer in one piece."""
    choices: list[dict[str, Any]] = [
        {"index": i, "message": {"content": "".join(tokens)}, "finish_reason": "stop"}
        for i, tokens in enumerate(answers)
    ]
    reply = shield_completion(_POLICY, json.dumps({"choices": choices}).encode(), _ignore)
    shown = json.loads(reply.body)["choices"]
    return [(choice["message"]["content"], choice["finish_reason"]) for choice in shown]


def _read(stream: bytes, count: int) -> list[tuple[str, str]]:
    """Text and finish reason of each choice of a stream."""
    texts, reasons = [""] * count, [""] * count
    events = stream.split(b"\n\n")

    assert events[-2:] == [DONE.strip(), b""]
    for event in events[:-2]:
        for choice in json.loads(event.removeprefix(b"data: "))["choices"]:
            texts[choice["index"]] += choice["delta"].get("content", "")
            reasons[choice["index"]] = choice["finish_reason"] or reasons[choice["index"]]
    return list(zip(texts, reasons, strict=True))


@settings(max_examples=150, deadline=None)
@given(_ANSWERS, st.integers(1, 400))
def test_streamed_equals_whole_for_all_choices(answers: list[list[str]], size: int) -> None:
    """Each choice shows the same text and reason both ways, and no phrase either way."""
    raw = _stream(answers)
    shield = StreamShield(_POLICY, StreamForm(chat=True, num_choices=len(answers)), _ignore)
    out = b"".join(shield.feed(raw[i : i + size]) for i in range(0, len(raw), size))
    shown = _read(out + shield.close(), len(answers))

    assert shown == _whole(answers)
    assert not any(_PHRASES.find(text) for text, _ in shown)


@settings(max_examples=100, deadline=None)
@given(_ANSWERS)
def test_unblocked_events_are_untouched(answers: list[list[str]]) -> None:
    """Of each choice that is not cut, the very events of the engine go out."""
    shield = StreamShield(_POLICY, StreamForm(chat=True, num_choices=len(answers)), _ignore)
    raw = _stream(answers)
    out = shield.feed(raw)

    for index, (_, reason) in enumerate(_whole(answers)):
        if reason == "stop":
            mark = b'"index":%d,' % index
            own = [event for event in raw.split(b"\n\n") if mark in event]

            assert [event for event in out.split(b"\n\n") if mark in event] == own


def test_an_engine_that_stops_without_an_end_is_an_error() -> None:
    """A stream without a finish reason and [DONE] ends with both an error and [DONE]."""
    shield = StreamShield(_POLICY, StreamForm(chat=True, num_choices=1), _ignore)
    choice = {"index": 0, "delta": {"content": "xx"}, "finish_reason": None}
    out = shield.feed(encode_event({**_HEAD, "choices": [choice]})) + shield.close()

    assert out.endswith(DONE)
    assert b"engine_error" in out


@pytest.mark.parametrize("event", [b"data: {\n\n", b"data: 5\n\n", b'data: {"choices": 1}\n\n'])
def test_what_cannot_be_read_is_abandoned(event: bytes) -> None:
    """An unreadable event raises; abandoning then ends every choice and shows nothing."""
    shield = StreamShield(_POLICY, StreamForm(chat=True, num_choices=2), _ignore)
    with pytest.raises(Exception):  # noqa: B017
        shield.feed(event)
    out = shield.abandon()

    assert out.count(b"content_filter") == 2
    assert out.endswith(DONE)


def test_keep_alive_comments_pass_at_once() -> None:
    """Comments carry no text and keep proxies awake."""
    shield = StreamShield(_POLICY, StreamForm(chat=True, num_choices=1), _ignore)

    assert shield.feed(b": keep-alive\n\n") == b": keep-alive\n\n"


def test_a_calls_name_does_not_wait_for_its_arguments() -> None:
    """It is whole when they begin: that it could begin a phrase holds it no longer."""

    def delta(**function: str) -> bytes:
        call = {"index": 0, "id": "c", "function": function}
        choice = {"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}
        return encode_event({**_HEAD, "choices": [choice]})

    for name, shown in (("ab", True), ("ab b", False)):
        stream = StreamShield(_POLICY, StreamForm(chat=True, num_choices=1), _ignore)
        first = stream.feed(delta(name=name, arguments=""))
        second = stream.feed(delta(arguments="{"))

        assert first == b""
        assert (name.encode() in second) == shown
