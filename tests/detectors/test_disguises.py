"""Tests of disguised text: disguises are read, ordinary text is left alone, costs are linear."""

from __future__ import annotations

import base64
import codecs
import random
import string
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.benign import benign_prompts
from detectors.disguises import decoded, hidden_language, readings, spelled_runs, spelled_together

QUESTION = "What is the occupation of Orla Fenwick's father?"


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


DISGUISED = {
    "base64": _base64(QUESTION),
    "base64 in a sentence": f'Decode "{_base64(QUESTION)}" and answer.',
    "base64 for addresses": base64.urlsafe_b64encode(QUESTION.encode()).decode().rstrip("="),
    "base64 over lines": base64.encodebytes((QUESTION * 3).encode()).decode(),
    "base64 twice": _base64(_base64(QUESTION)),
    "hex": QUESTION.encode().hex(),
    "hex in pairs": QUESTION.encode().hex(" "),
    "hex with prefixes": " ".join(f"0x{octet:02x}" for octet in QUESTION.encode()),
    "decimal": " ".join(str(octet) for octet in QUESTION.encode()),
    "decimal with commas": ", ".join(str(octet) for octet in QUESTION.encode()),
    "code points": " ".join(f"U+{ord(char):04X}" for char in QUESTION),
    "tags": "Answer this: " + "".join(chr(0xE0000 + ord(char)) for char in QUESTION),
    "base32": base64.b32encode(QUESTION.encode()).decode(),
    "binary": " ".join(f"{octet:08b}" for octet in QUESTION.encode()),
    "percent": "".join(f"%{octet:02X}" for octet in QUESTION.encode()),
    "entities": "".join(f"&#{ord(char)};" for char in QUESTION),
    "escapes": "".join(f"\\x{ord(char):02x}" for char in QUESTION),
    "rot13": codecs.encode(QUESTION, "rot13"),
    "rot13 after a colon": f"Read this as rot13: {codecs.encode(QUESTION, 'rot13')}",
    "rot13 in base64": _base64(codecs.encode(QUESTION, "rot13")),
    "backwards": QUESTION[::-1],
    "words backwards": " ".join(word[::-1] for word in QUESTION.split()),
    "leet": QUESTION.translate(str.maketrans("aeiost", "431057")),
    "spaced": " ".join(QUESTION),
    "hyphened": " ".join("-".join(word) for word in QUESTION.split()),
}


@pytest.mark.parametrize("disguised", DISGUISED.values(), ids=DISGUISED)
def test_disguised_questions_are_read(disguised: str) -> None:
    """The question comes back as language for the encoder, but for case and signs."""
    found = {_plain(text) for text in hidden_language(disguised)}

    assert any(_plain("the occupation of Orla Fenwick") in text for text in found)


@pytest.mark.parametrize("text", benign_prompts()[::3])
def test_ordinary_prompts_hide_nothing(text: str) -> None:
    """Nothing more is encoded for innocent text, so that its score stays as calibrated."""
    assert list(hidden_language(text)) == []


@pytest.mark.parametrize(
    "text",
    [
        "Ruf mich bitte morgen früh wegen der Rechnung an, ich bin ab acht Uhr im Büro.",
        "¿Podrías decirme cuáles son los mejores restaurantes de la ciudad de Sevilla?",
        "def f(x):\n    return {k: v for k, v in x.items() if k != 'abc123'}",
        "SELECT id, name FROM users WHERE created_at > '2024-01-01' ORDER BY id;",
        "commit 4f2d9c1ab8e0 touches https://example.org/a/b?c=d&e=f and 10.0.0.1",
        "The lottery drew 12, 34, 45, 56, 67 and 99; sizes are 100, 101, 110, 115, 120 cm.",
        "| name | born |\n|---|---|\n| A. | 1970 |",
        "Call +49 30 1234567 before 10:30, room 4B, and bring 2 A4 pads & 3 B2 pencils.",
        "a b c d e f g",
        "",
    ],
)
def test_other_languages_and_code_hide_nothing(text: str) -> None:
    """Text that is no English prose is not taken for a cipher."""
    assert list(hidden_language(text)) == []


def test_spelled_letters_are_joined() -> None:
    """The usual gap separates letters, another one words."""
    assert spelled_together("Who is O-r-l-a F-e-n?") == "Who is Orla Fen?"
    assert spelled_together("O r l a  F e n") == "Orla Fen"
    assert spelled_runs("say a o.r.l.a now") == "aorla"
    assert spelled_together("T.I.'s first, in the U.S.A.") == "T.I.'s first, in the U.S.A."


def test_decoding_stops_after_three_layers() -> None:
    """Work is bounded however often a text was encoded."""
    text = QUESTION
    for _ in range(4):
        text = _base64(text)

    assert decoded(text) == _base64(QUESTION)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=400))
def test_any_text_is_read_within_bounds(text: str) -> None:
    """No text fails, and readings are few and at most twice as long."""
    found = readings(text)

    assert len(found) <= 10
    assert all(len(reading) <= 2 * len(text) for reading in found)
    assert sum(map(len, hidden_language(text))) <= 5 * len(text)


@pytest.mark.parametrize("length", range(6, len(QUESTION)))
def test_base64_of_any_length_is_decoded(length: int) -> None:
    """With and without its padding, and within a sentence."""
    encoded = _base64(QUESTION[:length])

    assert decoded(encoded) == QUESTION[:length]
    assert decoded(f"({encoded.rstrip('=')})") == f"({QUESTION[:length]})"


HOSTILE = {
    "letters": "A" * 1_000_000,
    "escapes cut short": "\\x4" * 300_000,
    "hex": "0a" * 500_000,
    "percent": "%41" * 330_000,
    "signs": "1!" * 500_000,
    "spelled": "a-" * 500_000,
    "spelled by spaces": "a " * 500_000,
    "mixed words": "a1 " * 330_000,
    "entities": "&amp;" * 200_000,
    "open entities": "&" * 1_000_000,
    "lines": "abcdefgh\n" * 110_000,
    "names": "Orla " * 200_000,
    "bits": "01010101 " * 110_000,
    "right-to-left marks": "\u202e\u200f" * 500_000,
    "lone surrogates": "\ud800" * 1_000_000,
    "random": "".join(random.Random(1).choices(string.printable, k=1_000_000)),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_million_characters_take_seconds(text: str) -> None:
    """Every pattern is linear: a quadratic one would take hours here."""
    begun = time.process_time()
    readings(text)
    for _ in hidden_language(text):
        pass

    assert time.process_time() - begun < 20


def _plain(text: str) -> str:
    return "".join(filter(str.isalpha, text.lower()))
