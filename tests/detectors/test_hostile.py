"""Hostile input through the detectors: bounded time, no bypass by size, nothing that fails."""

from __future__ import annotations

import base64
import time
import tracemalloc

import pytest

from detectors.classifier import PromptClassifier, build_tables
from detectors.detection import Layer, Strength
from detectors.encoder import SentenceEncoder
from detectors.errors import PromptTooLong
from detectors.targets import Example, ForgetTarget
from detectors.windows import MAX_WINDOWS, prompt_windows

QUESTION = "What is the occupation of Orla Fenwick's father?"
BENIGN = [f"How many {what} are in a {where}?" for what in "abcdefgh" for where in "stuvwxyz"]
FILLER = "The weather was fine and the trains were on time that day. "
TARGET = ForgetTarget(
    "orla", examples=(Example(QUESTION, "A florist."),), aliases=("Orla Fenwick",)
)


@pytest.fixture
def tables(toy_encoder):
    """One target with a name and a question."""
    return build_tables([TARGET], toy_encoder, alpha=0.05, benign=BENIGN)


def _layers(tables, encoder, texts: list[str]) -> set[Layer]:
    found = PromptClassifier(tables).classify(texts, encoder.encode(prompt_windows(texts)))
    return {d.layer for d in found if d.strength is Strength.STRONG}


@pytest.mark.parametrize("place", [0.0, 0.37, 1.0])
def test_a_question_in_a_million_characters_is_found(tables, toy_encoder, place: float) -> None:
    """Wherever it stands, by name and by meaning, in seconds."""
    before = int(place * 17_000)
    text = FILLER * before + f"{QUESTION} " + FILLER * (17_000 - before)
    begun = time.process_time()

    assert _layers(tables, toy_encoder, [text]) == {Layer.ALIAS, Layer.SIMILARITY}
    assert time.process_time() - begun < 60


def test_a_disguised_question_behind_a_million_characters_is_found(tables, toy_encoder) -> None:
    """Decoding does not stop early."""
    text = FILLER * 15_000 + base64.b64encode(QUESTION.encode()).decode()

    assert _layers(tables, toy_encoder, [text]) == {Layer.ALIAS, Layer.SIMILARITY}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda q: "\u202e" + q + "\u202c",
        lambda q: "\u200f".join(q),
        lambda q: "\ud800" + q + "\udfff",
        lambda q: "".join(char + "\u0301\u200b" * 50 for char in q),
        lambda q: q + "\x00" * 10_000,
    ],
    ids=["override", "right-to-left marks", "lone surrogates", "combining marks", "nulls"],
)
def test_odd_characters_hide_no_name(tables, toy_encoder, wrap) -> None:
    """Marks, surrogates and control characters are dropped before a name is looked for."""
    assert Layer.ALIAS in _layers(tables, toy_encoder, [wrap(QUESTION)])


def test_ten_thousand_messages_are_judged(tables, toy_encoder) -> None:
    """A long history neither hides a turn nor breaks the bound on windows."""
    messages = [f"This is message number {n} of a long talk." for n in range(10_000)]
    messages[123] = QUESTION
    begun = time.process_time()
    windows = prompt_windows(messages)

    assert len(windows) <= 10_100
    assert _layers(tables, toy_encoder, messages) == {Layer.ALIAS, Layer.SIMILARITY}
    assert time.process_time() - begun < 60


def test_a_name_over_the_last_turns_of_many_is_found(tables, toy_encoder) -> None:
    """What is joined does not depend on what stands before it."""
    messages = [f"Message {n}." for n in range(10_000)] + ["Tell me of Orla", "Yes?", "Fenwick"]

    assert _layers(tables, toy_encoder, messages) == {Layer.ALIAS}


def test_what_is_too_long_is_an_error_and_not_cut() -> None:
    """There is no size above which text goes by unseen."""
    with pytest.raises(PromptTooLong):
        prompt_windows([f"{n} wonders. " * 40 for n in range(MAX_WINDOWS)])


def test_a_long_prompt_with_the_real_encoder(encoder: SentenceEncoder) -> None:
    """The real encoder reads odd text too, and finds the question in it."""
    tables = build_tables([TARGET], encoder, alpha=0.05, benign=BENIGN)
    text = f"\ud800\u202e{FILLER * 60}{QUESTION} {FILLER * 60}\x00\udfff"

    assert _layers(tables, encoder, [text]) == {Layer.ALIAS, Layer.SIMILARITY}


@pytest.mark.parametrize(
    "texts",
    [
        [FILLER * 2_000],
        [f"This is message number {n} of a long talk." for n in range(2_500)],
        ["\ud800\u202e\u200f" * 40_000],
        ["A-" * 60_000],
        [base64.b64encode(FILLER.encode() * 1_500).decode()],
    ],
    ids=["long text", "messages", "marks", "spelled out", "encoded"],
)
def test_time_and_memory_are_bounded_by_the_text(tables, texts: list[str]) -> None:
    """Time and memory are linear: "A-A-A-…" once took time by the square of its length."""
    classifier = PromptClassifier(tables)
    begun = time.process_time()
    tracemalloc.start()
    windows = prompt_windows(texts)
    classifier.begin(texts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert len(windows) <= MAX_WINDOWS
    assert peak < 300 * sum(map(len, texts))
    assert time.process_time() - begun < 10
