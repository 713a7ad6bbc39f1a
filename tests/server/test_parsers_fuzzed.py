"""What reads bytes and texts of others: any input gives a result or a declared error, in time.

Each property is run a little by default, and at length by `make fuzz`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from detectors import disguises
from detectors.errors import PromptTooLong
from detectors.normaliser import fold, fold_with_origins
from detectors.targets import Phrase
from detectors.turns import name_joins, question_joins
from detectors.windows import prompt_windows
from guard.background import word_view
from guard.phrase_matcher import PhraseMatcher
from guard.shield import OutputShield
from server.apis.table import APIS
from server.choice_shield import ShieldPolicy
from server.endpoints import Handling
from server.errors import MalformedBody, ServerError
from server.provenance.uploads import UploadWriter, read_upload
from server.request_body import parse_object
from server.sse import (
    DONE,
    EventSplitter,
    encode_event,
    encode_json,
    encode_named_event,
    event_data,
)
from server.stream_form import StreamForm
from server.target_lines import TargetLines

MILLION = 1_000_000
# On one core of a slow and busy machine; time that grows with the square would be minutes.
SECONDS_PER_MILLION = 30.0
Property = Callable[..., None]
PROPERTIES: dict[str, tuple[Property, tuple[Any, ...]]] = {}


def over(*strategies: Any) -> Callable[[Property], Property]:
    """Registers a property with what it is to hold over."""

    def register(function: Property) -> Property:
        PROPERTIES[function.__name__] = (function, strategies)
        return function

    return register


KEYS = st.sampled_from(
    (
        *("role", "content", "type", "text", "name", "tool_calls", "function", "arguments", "n"),
        *("prompt", "input", "tools", "status", "output", "summary", "system", "stream", "id"),
        "messages",
    )
)
WORDS = ("user", "assistant", "system", "text", "message", "function_call", "tool_use", "thinking")
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from((*WORDS, "", "in_progress", "x-anthropic-billing-header"))
    | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=12,
)
TURNS = st.lists(
    st.dictionaries(KEYS, VALUES, max_size=5)
    | st.fixed_dictionaries(
        {"role": st.sampled_from(WORDS), "content": VALUES}, optional={"status": VALUES}
    ),
    max_size=3,
)
BODIES = st.dictionaries(KEYS, VALUES, max_size=6) | st.builds(
    lambda turns, prompt, more: more | {"messages": turns, "input": turns, "prompt": prompt},
    TURNS | st.lists(TURNS, max_size=2),
    VALUES,
    st.dictionaries(KEYS, VALUES, max_size=3),
)
JSON_PIECES = st.sampled_from(
    (
        *(b"{", b"}", b"[", b"]", b'"a"', b":", b",", b"1e999", b"NaN", b'"\\ud800"', b"\xff"),
        *(b"9" * 5000, b'"\\u0000"', b"[" * 3000, b'{"a":' * 3000, b"true", b"\xef\xbb\xbf"),
        *(b"-0", b" "),
    )
)
BYTES = st.binary(max_size=200) | st.lists(JSON_PIECES, max_size=12).map(b"".join)


@over(BYTES | VALUES.map(lambda value: json.dumps(value).encode()))
def bodies_are_objects_or_malformed(raw: bytes) -> None:
    """Whatever the bytes, an object that can be written again, or one declared error."""
    try:
        found = parse_object(raw)
    except MalformedBody:
        return
    assert json.loads(encode_json(found)) == found


@over(st.sampled_from(sorted(APIS)), BODIES)
def requests_are_read_or_refused(handling: Handling, body: dict[str, Any]) -> None:
    """Every API reads any body to texts, or refuses it; what it reads, it can also refuse to do."""
    api = APIS[handling]

    def decode(token_ids: Any) -> str:
        return "".join(chr(97 + token % 26) for token in token_ids)

    try:
        texts = api.texts(body, decode)
        api.reject_unguardable(body)
    except ServerError:
        return
    assert all(isinstance(text, str) and text.strip() for text in texts)
    api.prefixes(body, decode)
    api.form(body)
    encode_json(api.steered(body)[0])
    refusal = api.refusal(body, "no", "demo", None)
    encode_json(refusal.completion())
    assert all(event.endswith(b"\n\n") for event in refusal.events())


EVENT_PIECES = st.lists(
    st.sampled_from((b"\n", b"\r", b"\r\n", b"data: ", b": x", b"a", b"\n\n", b"event: b"))
    | st.binary(max_size=4),
    max_size=20,
).map(b"".join)
CUTS = st.lists(st.integers(0, 400), max_size=12)


def _cut(raw: bytes, cuts: list[int]) -> Iterator[bytes]:
    for begin, end in pairwise((0, *sorted(cuts), max([len(raw), *cuts]))):
        yield raw[begin:end]


@over(EVENT_PIECES, CUTS)
def events_do_not_depend_on_cuts(raw: bytes, cuts: list[int]) -> None:
    """Any bytes, cut anywhere: the same events, which joined are the bytes."""
    whole, split = EventSplitter(), EventSplitter()
    expected = whole.feed(raw)
    found = [event for piece in _cut(raw, cuts) for event in split.feed(piece)]
    for event in found:
        event_data(event)

    assert b"".join(found) + split.rest == raw
    assert b"".join(expected) + whole.rest == raw
    # A carriage return at a cut may be the end of one blank line or the beginning of another.
    if b"\r" not in raw:
        assert found == expected


PHRASES = PhraseMatcher([Phrase("ab b"), Phrase("ba", whole_word=False)])
POLICY = ShieldPolicy([lambda: OutputShield([PHRASES])], decode=lambda _: "")


def _chat_stream(tokens: list[str]) -> list[bytes]:
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    choices = [{"index": 0, "delta": {"content": t}, "finish_reason": None} for t in tokens]
    choices.append({"index": 0, "delta": {}, "finish_reason": "stop"})
    return [*(encode_event({**head, "choices": [choice]}) for choice in choices), DONE]


def _text_stream(tokens: list[str]) -> list[bytes]:
    head = {"id": "c", "object": "text_completion", "created": 1, "model": "m"}
    choices = [{"index": 0, "text": t, "finish_reason": None} for t in tokens]
    choices.append({"index": 0, "text": "", "finish_reason": "stop"})
    return [*(encode_event({**head, "choices": [choice]}) for choice in choices), DONE]


def _message_stream(tokens: list[str]) -> list[bytes]:
    usage = {"input_tokens": 1, "output_tokens": 1}
    message = {"id": "m", "type": "message", "role": "assistant", "content": [], "model": "m"}
    block = {"type": "text", "text": ""}
    deltas = [{"type": "text_delta", "text": token} for token in tokens]
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**message, "usage": usage}},
        {"type": "content_block_start", "index": 0, "content_block": block},
        *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage},
        {"type": "message_stop"},
    ]
    return list(map(encode_named_event, events))


def _response_stream(tokens: list[str]) -> list[bytes]:
    head = {"id": "r", "object": "response", "model": "m", "output": [], "status": "in_progress"}
    part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    item = {"id": "i", "type": "message", "role": "assistant", "status": "completed"}
    whole = {**item, "content": [{**part, "text": "".join(tokens)}]}
    at = {"item_id": "i", "output_index": 0, "content_index": 0}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": head},
        {"type": "response.output_item.added", "output_index": 0, "item": {**item, "content": []}},
        {"type": "response.content_part.added", **at, "part": part},
        *({"type": "response.output_text.delta", **at, "delta": t} for t in tokens),
        {"type": "response.output_item.done", "output_index": 0, "item": whole},
        {"type": "response.completed", "response": {**head, "output": [whole], "usage": None}},
    ]
    return [encode_named_event({**e, "sequence_number": n}) for n, e in enumerate(events)]


STREAMS = {
    Handling.CHAT: _chat_stream,
    Handling.COMPLETIONS: _text_stream,
    Handling.MESSAGES: _message_stream,
    Handling.RESPONSES: _response_stream,
}
HARM = st.sampled_from(("drop", "double", "swap", "cut", "bytes", "comment"))


def _harmed(events: list[bytes], harms: list[tuple[str, int, bytes]]) -> bytes:
    for kind, place, junk in harms:
        at = place % max(1, len(events))
        event = events[at] if events else b""
        if kind == "double":
            events = [*events[:at], event, *events[at:]]
        elif kind == "swap":
            events = [
                *events[: max(0, at - 1)],
                event,
                *events[max(0, at - 1) : at],
                *events[at + 1 :],
            ]
        else:
            new = {"drop": b"", "comment": b": x\n\n" + event, "bytes": junk + event}
            cut = event[: place % max(1, len(event))]
            events = [*events[:at], new.get(kind, cut), *events[at + 1 :]]
    return b"".join(events)


@over(
    st.sampled_from(sorted(STREAMS)),
    st.lists(st.text("ab ", max_size=4), max_size=8),
    st.lists(st.tuples(HARM, st.integers(0, 500), BYTES), max_size=3),
    CUTS,
)
def a_harmed_stream_shows_no_phrase(
    handling: Handling, tokens: list[str], harms: list[tuple[str, int, bytes]], cuts: list[int]
) -> None:
    """Whatever the engine's bytes become and wherever they are cut: an end, and no phrase before.

    What the shield cannot read raises, and it is then abandoned, as the gateway does.
    """
    chat = handling is not Handling.COMPLETIONS
    form = StreamForm(chat=chat, num_choices=1)
    shield = APIS[handling].shield_stream(POLICY, form, lambda _surface, _caught: None)
    raw, out = _harmed(STREAMS[handling](tokens), harms), b""
    try:
        for piece in _cut(raw, cuts):
            out += shield.feed(piece)
        out += shield.close()
    except Exception:
        out += shield.abandon()

    assert not PHRASES.find(_said(out))
    assert shield.abandon() == b""


def _said(out: bytes) -> str:
    """What a client reads of a stream: the deltas, in order."""
    said = ""
    for event in EventSplitter().feed(out):
        data = event_data(event)
        try:
            payload = json.loads(data or b"null")
        except ValueError:
            continue
        if not isinstance(payload, dict):
            continue
        for choice in payload.get("choices") or ():
            said += (choice.get("delta") or {}).get("content") or choice.get("text") or ""
        delta = payload.get("delta")
        said += delta if isinstance(delta, str) else (delta or {}).get("text") or ""
    return said


TARGETS = st.dictionaries(
    st.sampled_from(("id", "phrases", "examples", "aliases", "documents", "expires_at", "labels"))
    | st.text(max_size=3),
    st.sampled_from(("ada", ["Port Sorrel"], "2100-01-01T00:00:00Z")) | VALUES,
    max_size=5,
)
LINES = st.lists(TARGETS.map(lambda value: json.dumps(value).encode()) | BYTES, max_size=5).map(
    b"\n".join
)


@over(LINES, CUTS)
def targets_are_lines_or_problems(raw: bytes, cuts: list[int]) -> None:
    """Any lines, cut anywhere: each is a target, blank, or a problem with its number."""
    lines = TargetLines()
    try:
        for piece in _cut(raw, cuts):
            lines.feed(piece)
        lines.end()
        lines.refuse_problems()
    except ServerError:
        pass
    assert len(lines.targets) + lines.num_problems <= 2 * (raw.count(b"\n") + 1)


@over(LINES, CUTS)
def uploads_are_documents_or_refused(raw: bytes, cuts: list[int]) -> None:
    """What an upload keeps can be read again; what it refuses leaves no file."""
    with TemporaryDirectory() as directory:
        try:
            with UploadWriter(Path(directory), 1_000_000) as upload:
                for piece in _cut(raw, cuts):
                    upload.feed(piece)
                kept = Path(directory) / upload.keep()
            assert len(list(read_upload(kept))) == upload.count
        except ServerError:
            assert not list(Path(directory).iterdir())


TEXTS = st.text(max_size=80) | st.lists(
    st.sampled_from(("\u200b", "\u0301", "\u202e", "A-", "=", "SGVsbG8=", "0x41", "01000001", "ﬃ"))
    | st.characters(),
    max_size=20,
).map("".join)


def _folded(text: str) -> None:
    folded, origins = fold_with_origins(text)
    assert folded == fold(text)
    assert len(origins) == len(folded)


def _disguised(text: str) -> None:
    disguises.readings(text)
    list(disguises.hidden_language(text))
    for read in (disguises.decoded, disguises.spelled_together, disguises.spelled_runs):
        read(text)


def _windowed(text: str) -> None:
    try:
        prompt_windows([text])
    except PromptTooLong:
        return
    list(name_joins([text, text]))
    question_joins([text, text])


def _matched(text: str) -> None:
    PHRASES.find(text)
    PHRASES.held(text)


def _shielded(text: str) -> None:
    shield, size = OutputShield([PHRASES]), max(1, len(text) // 20_000)
    shown = "".join(shield.feed(text[at : at + size]).text for at in range(0, len(text), size))
    assert not PHRASES.find(shown + shield.finish().text)


READERS: dict[str, Callable[[str], object]] = {
    "normaliser": _folded,
    "disguises": _disguised,
    "windows": _windowed,
    "phrase matcher": _matched,
    "shield": _shielded,
    "words": lambda text: word_view().symbols(text),
}


@over(st.sampled_from(sorted(READERS)), TEXTS)
def texts_are_read(reader: str, text: str) -> None:
    """Any text, surrogates and all."""
    READERS[reader](text)


UNITS = TEXTS.filter(bool)


def _million(reader: str, unit: str, tail: str) -> None:
    text = (unit * (MILLION // len(unit) + 1))[:MILLION] + tail
    begun = time.process_time()
    READERS[reader](text)
    spent = time.process_time() - begun

    assert spent < SECONDS_PER_MILLION, (reader, unit, spent)


def _run(name: str, examples: int, number: int) -> None:
    function, strategies = PROPERTIES[name]
    checks = list(HealthCheck)
    held = settings(
        max_examples=examples, deadline=None, database=None, suppress_health_check=checks
    )(given(*strategies)(function))
    seed(number)(held)()


@pytest.mark.parametrize("name", sorted(PROPERTIES))
def test_a_property_holds(name: str) -> None:
    """A little of each."""
    _run(name, 150, 1)


@pytest.mark.parametrize("unit", ["A-", "é\u0301\u200b", "ab ", "SGVsbG8gd29ybGQ= "])
@pytest.mark.parametrize("reader", ["normaliser", "phrase matcher", "shield", "words"])
def test_a_million_characters_take_bounded_time(reader: str, unit: str) -> None:
    """Of one repeated piece, which is where time by the square of the length shows."""
    _million(reader, unit, "b")


@pytest.mark.parametrize("size", [64, 1 << 20])
def test_a_million_bytes_of_events_are_split_in_bounded_time(size: int) -> None:
    """One long event in small pieces, and many short ones in one piece."""
    long, short = b"data: " + b"x" * MILLION + b"\n\n", b"data: 1\n\n" * (MILLION // 9)
    begun = time.process_time()
    for raw in (long, short):
        splitter = EventSplitter()
        found = [e for at in range(0, len(raw), size) for e in splitter.feed(raw[at : at + size])]

        assert b"".join(found) == raw
    assert time.process_time() - begun < 5


@pytest.mark.timeout(60)
def test_a_long_document_in_many_pieces_is_read_once(tmp_path: Path) -> None:
    """A line of 32 MB in pieces of 1 KB; copied with every piece it would be 500 GB."""
    with UploadWriter(tmp_path, 1 << 30) as upload:
        for _ in range(32_768):
            upload.feed(b" " * 1024)
        upload.feed(b'{"text": "a b c"}')
        upload.keep()

    assert upload.count == 1


@pytest.mark.fuzz
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("number", range(2))
@pytest.mark.parametrize("name", sorted(PROPERTIES))
def test_a_property_holds_at_length(name: str, number: int) -> None:
    """Tens of thousands of each."""
    _run(name, 20_000, number)
    print(f"\n{name}, seed {number}: 20,000 inputs")


@pytest.mark.fuzz
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("reader", sorted(READERS))
def test_a_million_characters_of_anything(reader: str) -> None:
    """Pieces that hypothesis finds, repeated."""
    run = settings(
        max_examples=40,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate,),
    )(given(UNITS, TEXTS)(lambda unit, tail: _million(reader, unit, tail)))
    seed(1)(run)()
    print(f"\n{reader}: 40 texts of a million characters")
