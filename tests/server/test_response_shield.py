"""Answers of the Responses API: streamed and whole ones get the same cut."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.targets import Phrase
from guard.ledger import CloseReason
from guard.nets import Catch
from guard.phrase_matcher import PhraseMatcher
from guard.shield import OutputShield
from server.apis.response_shield import shield_response
from server.apis.response_stream import ResponseStream
from server.choice_shield import ShieldPolicy
from server.prefixes import Prefixes
from server.sse import encode_named_event
from server.stream_form import StreamForm

_PHRASES = PhraseMatcher([Phrase("ab b"), Phrase("ba", whole_word=False), Phrase("b a")])
_NETS = [lambda: OutputShield([_PHRASES])]
_POLICY = ShieldPolicy(_NETS, decode=lambda _: "")
_FORM = StreamForm(chat=True, num_choices=1)
_HEAD = {"id": "resp_1", "object": "response", "model": "m", "instructions": "ab b"}
_USAGE = {"input_tokens": 3, "output_tokens": 9, "total_tokens": 12}
_KINDS = ["message", "reasoning", "function_call"]
_ITEMS = st.lists(
    st.tuples(st.sampled_from(_KINDS), st.lists(st.text("ab ", max_size=4), max_size=5)),
    max_size=4,
)
Event = dict[str, Any]


def _ignore(_surface: str, _caught: Catch | None) -> None:
    """Counts nothing."""


def _item(kind: str, index: int, text: str, name: str = "f") -> Event:
    head = {"id": f"i{index}", "type": kind, "status": "completed"}
    if kind == "function_call":
        return {**head, "call_id": "c", "name": name, "namespace": None, "arguments": text}
    if kind == "reasoning":
        return {**head, "summary": [], "content": [{"type": "reasoning_text", "text": text}]}
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": None}
    return {**head, "role": "assistant", "content": [part]}


def _events(items: list[tuple[str, list[str]]], status: str = "completed") -> list[Event]:
    """Events as vLLM sends them."""
    response = {**_HEAD, "output": [], "status": "in_progress", "incomplete_details": None}
    out: list[Event] = [{"type": "response.created", "response": response}]
    out.append({"type": "response.in_progress", "response": response})
    whole = []
    for index, (kind, parts) in enumerate(items):
        whole.append(_item(kind, index, "".join(parts)))
        out += _item_events(kind, index, parts, whole[-1])
    done = {**response, "output": whole, "status": status, "usage": _USAGE}
    out.append({"type": "response.completed", "response": done})
    return [{**event, "sequence_number": number} for number, event in enumerate(out)]


def _item_events(kind: str, index: int, parts: list[str], whole: Event) -> list[Event]:
    at: Event = {"item_id": f"i{index}", "output_index": index}
    empty = {**_item(kind, index, ""), "status": "in_progress"}
    out: list[Event] = []
    text = "".join(parts)
    if kind == "function_call":
        out += [{"type": "response.function_call_arguments.delta", **at, "delta": p} for p in parts]
        done = {"type": "response.function_call_arguments.done", **at, "arguments": text}
        out.append({**done, "name": "f"})
    else:
        name = "output_text" if kind == "message" else "reasoning_text"
        at["content_index"] = 0
        empty["content"], part = [], whole["content"][0]
        out.append({"type": "response.content_part.added", **at, "part": {**part, "text": ""}})
        out += [{"type": f"response.{name}.delta", **at, "delta": p} for p in parts]
        out.append({"type": f"response.{name}.done", **at, "text": text})
        out.append({"type": "response.content_part.done", **at, "part": part})
    added = {"type": "response.output_item.added", "output_index": index, "item": empty}
    return [
        added,
        *out,
        {"type": "response.output_item.done", "output_index": index, "item": whole},
    ]


def _shield(events: list[Event], size: int = 10_000, policy: ShieldPolicy = _POLICY) -> bytes:
    raw = b"".join(map(encode_named_event, events))
    stream = ResponseStream(policy, _FORM, _ignore)
    out = b"".join(stream.feed(raw[i : i + size]) for i in range(0, len(raw), size))
    return out + stream.close()


def _read(raw: bytes) -> list[Event]:
    """The events of a stream, whose numbers and nesting are checked."""
    events = [json.loads(part.split(b"data: ")[1]) for part in raw.split(b"\n\n")[:-1]]
    opened = None

    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    for event in events[2:-1]:
        if event["type"] == "response.output_item.added":
            assert opened is None
            opened = event["output_index"]
        assert event["output_index"] == opened
        if event["type"] == "response.output_item.done":
            opened = None
    assert opened is None
    return events


def _said(response: Event) -> list[tuple[str, str]]:
    """Kinds and texts of the items that say something."""
    found = []
    for item in response["output"]:
        parts = item.get("content") or [{"text": item.get("arguments", "")}]
        found.append((item["type"], "".join(part["text"] for part in parts)))
    return [(kind, text) for kind, text in found if text]


def _everything(response: Event) -> Iterator[str]:
    for item in response["output"]:
        yield "".join(item.get(key) or "" for key in ("name", "call_id", "arguments"))
        yield from (part["text"] for part in item.get("content") or ())


@settings(max_examples=200, deadline=None)
@given(_ITEMS, st.integers(1, 400))
def test_streamed_is_cut_where_whole_is(items: list[tuple[str, list[str]]], size: int) -> None:
    """The same status and usage both ways, deltas that add up, and no phrase anywhere.

    Where one phrase hides in another a stream, which has read less, may show a little less.
    """
    events = _read(_shield(_events(items), size))
    final = events[-1]["response"]
    body = json.dumps(_events(items)[-1]["response"]).encode()
    whole = json.loads(shield_response(_POLICY, body, _ignore).body)

    assert (final["status"], final["usage"]) == (whole["status"], whole["usage"])
    assert events[-1]["type"] == f"response.{final['status']}"
    shown, all_of_it = ("".join(_everything(r)) for r in (final, whole))
    assert all_of_it.startswith(shown)
    if final["status"] == "completed":
        assert _said(final) == _said(whole)
    deltas = [(e["output_index"], e["delta"]) for e in events if "delta" in e]
    streamed = ["".join(t for i, t in deltas if i == index) for index in range(len(items))]
    assert [text for text in streamed if text] == [text for _, text in _said(final)]
    assert not any(_PHRASES.find(text) for _, text in _said(final))
    assert not _PHRASES.find(shown)
    assert not _PHRASES.find(all_of_it)
    for kind in _KINDS[:2]:
        assert not _PHRASES.find("".join(text for other, text in _said(final) if other == kind))


@pytest.mark.parametrize("kind", _KINDS)
def test_an_untouched_answer_passes_byte_for_byte(kind: str) -> None:
    """Nothing is caught, so nothing is rewritten; what repeats the request is the client's."""
    events = _events([(kind, ["aa"]), ("message", ["a", " a"])])
    body = json.dumps(events[-1]["response"], indent=1).encode()

    assert _shield(events) == b"".join(map(encode_named_event, events))
    assert shield_response(_POLICY, body, _ignore).body == body


@pytest.mark.parametrize(
    "items",
    [
        [("message", ["a a", "b b"])],
        [("function_call", ["b a", "b", "a"])],
        [("reasoning", ["a"]), ("message", ["b"]), ("reasoning", [" b"])],
        [("reasoning", ["x ab"]), ("message", [" b x"])],
        [("function_call", ['{"q": "\\u0061', 'b b"}'])],
    ],
)
def test_a_phrase_is_seen_wherever_it_is_split(items: list[tuple[str, list[str]]]) -> None:
    """Over deltas, over items of a kind, from one kind to the next, behind escapes."""
    final = _read(_shield(_events(items)))[-1]
    texts = [text for _, text in _said(final["response"])]

    assert not any(map(_PHRASES.find, texts))

    assert final["type"] == "response.incomplete"
    assert final["response"]["incomplete_details"] == {"reason": "content_filter"}
    assert final["response"]["usage"] == _USAGE


def _changed(change: Callable[[list[Event]], None]) -> list[Event]:
    events = _events([("message", ["aa"]), ("function_call", ["{}"])])
    change(events)
    return events


def _of(events: list[Event], kind: str) -> Event:
    return next(event for event in events if event["type"] == f"response.{kind}")


@pytest.mark.parametrize(
    "change",
    [
        lambda e: _of(e, "output_text.done").update(text="ab b"),
        lambda e: _of(e, "content_part.done")["part"].update(text="ab b"),
        lambda e: _of(e, "output_item.done")["item"]["content"][0].update(text="ab b"),
        lambda e: _of(e, "function_call_arguments.done").update(arguments="ab b"),
        lambda e: _of(e, "function_call_arguments.done").update(name="ab b"),
        lambda e: e[-1]["response"].update(output=[_item("message", 0, "ab b")]),
        lambda e: e[-1]["response"]["output"][1].update(name="ab b"),
        lambda e: e[-1]["response"]["output"][1].update(call_id="ab b"),
        lambda e: e[-2].update(item=_item("function_call", 1, "{}", "ab b")),
        lambda e: _of(e, "output_text.done").update(
            logprobs=[{"token": t, "logprob": -1.0, "top_logprobs": []} for t in ("ab", " b")]
        ),
    ],
)
def test_what_repeats_the_deltas_is_judged(change: Callable[[list[Event]], None]) -> None:
    """An event that says something else than was streamed is judged by what it says."""
    out = _shield(_changed(change))

    assert b'"output":[' in out
    assert not _PHRASES.find("".join(_strings(_read(out))))


def _strings(value: Any, key: str = "") -> list[str]:
    """All strings but what the request said."""
    if isinstance(value, dict):
        return [s for k, v in value.items() if k != "instructions" for s in _strings(v, k)]
    if isinstance(value, list):
        return [s for v in value for s in _strings(v, key)]
    return [f" | {value}"] if isinstance(value, str) and key not in ("delta", "token") else []


@pytest.mark.parametrize(
    "change",
    [
        lambda e: e.insert(3, {"type": "response.mcp_call.in_progress", "output_index": 0}),
        lambda e: _of(e, "output_item.added")["item"].update(type="mcp_call"),
        lambda e: _of(e, "output_item.added")["item"].update(secret="ab b"),
        lambda e: _of(e, "content_part.done")["part"].update(annotations=[{"title": "ab b"}]),
        lambda e: _of(e, "output_text.delta").update(other="ab b"),
        lambda e: e[0]["response"].update(output=[_item("message", 0, "ab b")]),
    ],
)
def test_what_is_unknown_raises(change: Callable[[list[Event]], None]) -> None:
    """So the answer is ended by whoever runs the shield, showing nothing more."""
    events = _changed(change)
    stream = ResponseStream(_POLICY, _FORM, _ignore)
    with pytest.raises(ValueError, match=r"unknown|begins"):
        stream.feed(b"".join(map(encode_named_event, events)))
    out = stream.abandon()

    assert b"ab b" not in out.replace(b'"instructions":"ab b"', b"")
    assert stream.ended
    assert stream.cut_short


def _with_logprobs(alternative: str) -> list[Event]:
    events = _events([("message", ["a", " a"])])
    for event in events:
        if "delta" in event:
            other = {"token": alternative, "logprob": -2.0}
            own = {"token": event["delta"], "logprob": -0.5}
            event["logprobs"] = [{**own, "top_logprobs": [own, other]}]
    return events


def test_forbidden_alternatives_are_left_out() -> None:
    """A token that would be a phrase, and one that the worker forbade; others stay."""
    assert b"baba" not in _shield(_with_logprobs("baba"))
    assert b"aaa" in _shield(_with_logprobs("aaa"))
    events = _with_logprobs("aaa")
    assert _shield(events) == b"".join(map(encode_named_event, events))


def test_a_stop_that_the_answer_does_not_tell_counts() -> None:
    """A phrase whose end is a stop string, unless the answer met its limit."""
    policy = ShieldPolicy(_NETS, lambda ids: " b" * len(ids), prefixes=Prefixes(endings=(7,)))
    items = [("message", ["a ab"])]

    assert b"content_filter" in _shield(_events(items), policy=policy)
    assert b"content_filter" not in _shield(_events(items, "incomplete"), policy=policy)


def test_a_closed_slot_is_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the worker ended says so; a fault of the guard's is a 503 where nothing went out."""
    closed = ShieldPolicy(_NETS, lambda _: "", closed=lambda: CloseReason.NOTHING_LEFT)
    broken = ShieldPolicy(_NETS, lambda _: "", closed=lambda: CloseReason.INTERNAL_ERROR)
    events = _events([("message", ["a"])])
    body = json.dumps(events[-1]["response"]).encode()

    assert _read(_shield(events, policy=closed))[-1]["type"] == "response.incomplete"
    whole = json.loads(shield_response(closed, body, _ignore).body)
    assert whole["incomplete_details"] == {"reason": "content_filter"}
    assert shield_response(broken, body, _ignore).status == 503


def test_an_engine_that_stops_is_an_error() -> None:
    """Unless a grammar was violated by the end that the worker forced."""
    events = _events([("message", ["a"])])[:-4]
    stream = ResponseStream(_POLICY, StreamForm(True, 1, structured=True), _ignore)
    stream.feed(b"".join(map(encode_named_event, events)))

    assert b"event: error" in _shield(events)
    assert b"content_filter" in stream.close()
