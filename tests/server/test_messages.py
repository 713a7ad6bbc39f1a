"""Anthropic's messages: every text is read, and streamed and whole answers get the same cut."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.targets import Phrase
from guard.ledger import CloseReason
from guard.nets import Catch
from guard.phrase_matcher import PhraseMatcher
from guard.shield import OutputShield
from server.apis.message_shield import shield_message
from server.apis.message_stream import MessageStream
from server.apis.messages import Messages
from server.choice_shield import ShieldPolicy
from server.errors import GuardUnavailable, InvalidRequest, UnsupportedFeature
from server.reply import reply_of
from server.sse import encode_named_event
from server.stream_form import StreamForm

_PHRASES = PhraseMatcher([Phrase("ab b"), Phrase("ba", whole_word=False), Phrase("b a")])
_POLICY = ShieldPolicy([lambda: OutputShield([_PHRASES])], decode=lambda _: "")
_FORM = StreamForm(chat=True, num_choices=1)
_BLOCKS = st.lists(
    st.tuples(
        st.sampled_from(["text", "thinking"]), st.lists(st.text("ab ", max_size=4), max_size=5)
    ),
    max_size=4,
)


def _ignore(_surface: str, _caught: Catch | None) -> None:
    """Counts nothing."""


def _events(blocks: list[tuple[str, list[str]]], stop: str | None = None) -> list[dict[str, Any]]:
    message = {"id": "m", "type": "message", "role": "assistant", "content": [], "model": "m"}
    usage = {"input_tokens": 3, "output_tokens": 0}
    out: list[dict[str, Any]] = [{"type": "message_start", "message": {**message, "usage": usage}}]
    for index, (kind, parts) in enumerate(blocks):
        block = {"type": kind, kind: ""}
        out.append({"type": "content_block_start", "index": index, "content_block": block})
        for part in parts:
            delta = {"type": f"{kind}_delta", kind: part}
            out.append({"type": "content_block_delta", "index": index, "delta": delta})
        out.append({"type": "content_block_stop", "index": index})
    end = {"stop_reason": "stop_sequence" if stop else "end_turn", "stop_sequence": stop}
    used = {"input_tokens": 3, "output_tokens": 9}
    out.append({"type": "message_delta", "delta": end, "usage": used})
    return [*out, {"type": "message_stop"}]


def _read(raw: bytes) -> tuple[list[tuple[str, str]], str, int]:
    """Blocks with text, stop reason and output tokens of a stream, whose grammar is checked."""
    events = [json.loads(part.split(b"data: ")[1]) for part in raw.split(b"\n\n")[:-1]]
    texts: list[list[str]] = []
    opened = False

    assert [events[0]["type"], events[-2]["type"]] == ["message_start", "message_delta"]
    assert events[-1] == {"type": "message_stop"}
    for event in events[1:-2]:
        assert event["index"] == len(texts) - (event["type"] != "content_block_start")
        assert opened == (event["type"] != "content_block_start")
        opened = event["type"] != "content_block_stop"
        if event["type"] == "content_block_start":
            texts.append([event["content_block"]["type"], ""])
        elif event["type"] == "content_block_delta":
            texts[-1][1] += event["delta"][texts[-1][0]]
    assert not opened
    end = events[-2]
    said = [(kind, text) for kind, text in texts if text]
    return said, end["delta"]["stop_reason"], end["usage"]["output_tokens"]


def _shield(events: list[dict[str, Any]], size: int = 10_000, **form: bool) -> bytes:
    raw = b"".join(map(encode_named_event, events))
    stream = MessageStream(_POLICY, StreamForm(chat=True, num_choices=1, **form), _ignore)
    out = b"".join(stream.feed(raw[i : i + size]) for i in range(0, len(raw), size))
    return out + stream.close()


@settings(max_examples=150, deadline=None)
@given(_BLOCKS, st.integers(1, 300))
def test_streamed_equals_whole(blocks: list[tuple[str, list[str]]], size: int) -> None:
    """The same blocks, texts and stop reason both ways, with the engine's usage, and no phrase."""
    said, reason, tokens = _read(_shield(_events(blocks), size))
    content = [{"type": kind, kind: "".join(parts)} for kind, parts in blocks]
    body = json.dumps({"content": content, "stop_reason": "end_turn"}).encode()
    whole = json.loads(shield_message(_POLICY, body, _ignore).body)

    assert tokens == 9
    assert reason == whole["stop_reason"]
    assert said == [(b["type"], b[b["type"]]) for b in whole["content"] if b[b["type"]]]
    for kind in ("text", "thinking"):
        shown = [text for other, text in said if other == kind]
        assert not _PHRASES.find("".join(shown))
        assert not any(map(_PHRASES.find, shown))


def test_an_untouched_stream_passes_byte_for_byte() -> None:
    """Nothing is caught, so nothing is rewritten."""
    events = _events([("thinking", ["aa"]), ("text", ["a", " a"])])

    assert _shield(events) == b"".join(map(encode_named_event, events))


def _tool(partial: list[str], name: str = "look", call: str = "t") -> list[dict[str, Any]]:
    block = {"type": "tool_use", "id": call, "name": name, "input": {}}
    events = _events([("text", ["go"]), ("tool", partial)])
    for event in events:
        if event.get("content_block", {}).get("type") == "tool":
            event["content_block"] = block
        if event.get("delta", {}).get("type") == "tool_delta":
            event["delta"] = {"type": "input_json_delta", "partial_json": event["delta"]["tool"]}
    return events


@pytest.mark.parametrize(
    "events",
    [
        _tool(['{"q": "a', "b", ' b"}']),
        _tool(['{"q": "\\u0061', 'b b"}']),
        _tool(["{}"], name="ab b"),
        _tool(["{}"], call="functions.ab b:0"),
    ],
)
def test_tool_calls_are_surfaces(events: list[dict[str, Any]]) -> None:
    """Names and inputs, split over deltas and escaped."""
    out = _shield(events)

    assert b'"stop_reason":"refusal"' in out
    assert b"ab b" not in out
    assert not any(text in out for text in (b'b b"}', b"bb"))


@pytest.mark.parametrize(
    "block",
    [
        {"name": "ab b", "input": {}},
        {"name": "x", "input": {"ab b": 1}},
        {"name": "x", "input": {}, "id": "ab b:0"},
    ],
)
def test_whole_tool_calls_are_surfaces(block: dict[str, Any]) -> None:
    """A call that says a phrase is left out."""
    content = [{"type": "text", "text": "go"}, {"type": "tool_use", "id": "t", **block}]
    body = json.dumps({"content": content, "stop_reason": "tool_use"}).encode()
    whole = json.loads(shield_message(_POLICY, body, _ignore).body)

    assert whole["content"] == [{"type": "text", "text": "go"}]
    assert whole["stop_reason"] == "refusal"


def test_a_stop_sequence_that_completes_a_phrase() -> None:
    """What the engine cut off but names counts."""
    out = _shield(_events([("text", ["a"])], stop="b b"))

    assert b'"stop_reason":"refusal"' in out
    assert b"b b" not in out


@pytest.mark.parametrize(
    "event",
    [
        {"type": "new_event", "text": "x"},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "new"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "new_delta"}},
        {"type": "message_stop"},
    ],
)
def test_what_is_unknown_is_abandoned(event: dict[str, Any]) -> None:
    """It raises; abandoning ends the message and shows nothing that was held."""
    stream = MessageStream(_POLICY, _FORM, _ignore)
    stream.feed(encode_named_event(_events([])[0]))
    with pytest.raises((ValueError, KeyError)):
        stream.feed(encode_named_event(event))

    assert _read(encode_named_event(_events([])[0]) + stream.abandon())[:2] == ([], "refusal")


def test_a_closed_slot_is_a_refusal() -> None:
    """Nothing left to sample: the engine's end is told as what it is."""
    policy = ShieldPolicy(_POLICY.nets, _POLICY.decode, lambda: CloseReason.NOTHING_LEFT)
    stream = MessageStream(policy, _FORM, _ignore)
    out = stream.feed(b"".join(map(encode_named_event, _events([("text", ["a"])]))))

    assert _read(out)[1] == "refusal"


@pytest.mark.parametrize(("structured", "ends"), [(True, b"message_stop"), (False, b"error")])
@pytest.mark.parametrize("quoted", ["ab b", "other"])
def test_errors_in_mid_stream(structured: bool, ends: bytes, quoted: str) -> None:
    """A grammar's complaint about a forced end is a refusal; other errors are told, not quoted."""
    error = {"type": "error", "error": {"type": "internal_error", "message": f"no {quoted}"}}
    out = _shield([*_events([])[:1], error], structured=structured)

    assert quoted.encode() not in out
    assert out.split(b"\n\n")[-2].startswith(b"event: " + ends)


def test_an_engine_that_stops_without_an_end_is_an_error() -> None:
    """In Anthropic's shape."""
    assert b"event: error" in _shield(_events([("text", ["a"])])[:-2])


def _texts(**fields: Any) -> str:
    body = {"messages": [{"role": "user", "content": "hi"}], **fields}
    return "\n\n".join(Messages().texts(body, lambda _: ""))


@pytest.mark.parametrize(
    "block",
    [
        {"type": "text", "text": "John"},
        {"type": "thinking", "thinking": "John"},
        {"type": "tool_use", "id": "t", "name": "John", "input": {}},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"John": 1}},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": ["John"]}},
        {"type": "tool_result", "tool_use_id": "t", "content": "John"},
        {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "John"}]},
        {"type": "tool_result", "tool_use_id": "John", "content": ""},
        {"type": "tool_addition", "tool": {"type": "tool_reference", "name": "John"}},
    ],
)
def test_every_kind_of_block_is_read(block: dict[str, Any]) -> None:
    """In any turn, and all of them may be sent."""
    messages = [{"role": "assistant", "content": [block]}, {"role": "user", "content": "hi"}]

    assert "John" in _texts(messages=messages)
    Messages().reject_unguardable({"messages": messages})


@pytest.mark.parametrize(
    "fields",
    [
        {"system": "John"},
        {"system": [{"type": "text", "text": "Jo"}, {"type": "text", "text": "hn"}]},
        {"messages": [{"role": "system", "content": c} for c in ("Jo", "hn")]},
        {"tools": [{"name": "f", "description": "John", "input_schema": {}}]},
        {"tool_choice": {"type": "tool", "name": "John"}},
        {"output_config": {"format": {"type": "json_schema", "schema": {"enum": ["John"]}}}},
        {"chat_template_kwargs": {"persona": "John"}},
    ],
)
def test_everything_that_shapes_the_answer_is_read(fields: dict[str, Any]) -> None:
    """System prompts as the engine joins them, tools, forms and template variables."""
    assert "John" in _texts(**fields)


@pytest.mark.parametrize(
    "messages", ["x", None, [1], [{"role": "user"}], [{"role": "x", "content": "x"}]]
)
def test_forms_that_cannot_be_read_are_refused(messages: Any) -> None:
    """Nobody may be shown them."""
    with pytest.raises(InvalidRequest):
        _texts(messages=messages)


@pytest.mark.parametrize(
    "fields",
    [
        {"kv_transfer_params": {"a": 1}},
        {"chat_template_kwargs": {"chat_template": "x"}},
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
        {"system": [{"type": "document", "text": "x"}]},
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "tool_result", "content": [{"type": "image"}]}],
                }
            ]
        },
    ],
)
def test_what_cannot_be_guarded_is_refused(fields: dict[str, Any]) -> None:
    """Pictures, documents, transferred prompts and templates."""
    with pytest.raises(UnsupportedFeature):
        Messages().reject_unguardable({"messages": [], **fields})


def test_errors_have_anthropics_shape() -> None:
    """With the status that they have everywhere."""
    reply = Messages().error(reply_of(GuardUnavailable()))

    assert reply.status == 503
    assert json.loads(reply.body)["error"]["type"] == "overloaded_error"
    assert json.loads(reply.body)["type"] == "error"
