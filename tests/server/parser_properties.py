"""What reads bytes and texts of others: any input gives a result or a declared error, in time.

`test_parsers_fuzzed` runs each property, `coverage_guided.py` one by what code its inputs reach.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

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
from server.sse import EventSplitter, encode_json, event_data
from server.stream_form import StreamForm
from server.target_lines import TargetLines
from tests.server.answer_streams import HARMS, STREAMS, harmed, said

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


def cut(raw: bytes, cuts: list[int]) -> Iterator[bytes]:
    for begin, end in pairwise((0, *sorted(cuts), max([len(raw), *cuts]))):
        yield raw[begin:end]


@over(EVENT_PIECES, CUTS)
def events_do_not_depend_on_cuts(raw: bytes, cuts: list[int]) -> None:
    """Any bytes, cut anywhere: the same events, which joined are the bytes."""
    whole, split = EventSplitter(), EventSplitter()
    expected = whole.feed(raw)
    found = [event for piece in cut(raw, cuts) for event in split.feed(piece)]
    for event in found:
        event_data(event)

    assert b"".join(found) + split.rest == raw
    assert b"".join(expected) + whole.rest == raw
    # A carriage return at a cut may be the end of one blank line or the beginning of another.
    if b"\r" not in raw:
        assert found == expected


PHRASES = PhraseMatcher([Phrase("ab b"), Phrase("ba", whole_word=False)])
POLICY = ShieldPolicy([lambda: OutputShield([PHRASES])], decode=lambda _: "")


@over(
    st.sampled_from(sorted(STREAMS)),
    st.lists(st.text("ab ", max_size=4), max_size=8),
    st.lists(st.tuples(st.sampled_from(HARMS), st.integers(0, 500), BYTES), max_size=3),
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
    raw, out = harmed(STREAMS[handling](tokens), harms), b""
    try:
        for piece in cut(raw, cuts):
            out += shield.feed(piece)
        out += shield.close()
    except Exception:
        out += shield.abandon()

    assert not PHRASES.find(said(out))
    assert shield.abandon() == b""


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
        for piece in cut(raw, cuts):
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
                for piece in cut(raw, cuts):
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
