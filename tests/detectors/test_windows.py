"""Tests of the windows for the encoder: coverage and bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors import windows
from detectors.errors import PromptTooLong
from detectors.windows import CHARACTERS, WORD_CHARACTERS, WORDS, prompt_windows

words = st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1, max_size=200) | (
    st.sampled_from(["a", "end.", "why?", "终。", "x" * 95])
)
texts = st.lists(words, max_size=200).map(" ".join)


def test_short_text_is_its_own_window() -> None:
    """Nothing is cut and nothing repeated."""
    assert prompt_windows(["What is rain?", "", "  \n", "What is rain?"]) == ["What is rain?"]


@given(texts)
def test_every_character_is_near_the_start_of_a_window(text: str) -> None:
    """Each character that is not white space is among the first 240 of some window."""
    covered: set[int] = set()
    position = 0
    for window in prompt_windows([text]):
        position = text.find(window)
        while position >= 0:
            covered.update(range(position, position + min(len(window), CHARACTERS // 2)))
            position = text.find(window, position + 1)

    assert all(i in covered for i, char in enumerate(text) if not char.isspace())


@given(texts)
def test_windows_are_bounded(text: str) -> None:
    """No window is larger than the encoder reads, and there are not too many."""
    found = prompt_windows([text])

    assert all(len(window) <= CHARACTERS for window in found)
    assert all(len(window.split()) <= WORDS for window in found)
    assert all(len(word) <= WORD_CHARACTERS for window in found for word in window.split())
    assert len(found) <= 2 + len(text.split()) / 32 + len(text) / 13


def test_long_text_overlaps_by_half() -> None:
    """A question across one window's end lies whole in the next."""
    text = " ".join(f"w{n}" for n in range(100))
    question = " ".join(f"w{n}" for n in range(58, 78))

    assert any(question in window for window in prompt_windows([text]))


def test_sentences_are_windows_of_their_own() -> None:
    """A question between other sentences is seen alone and in its context; short ones join."""
    question = "What was the profession of the painter's father?"
    text = f"Hi! I am preparing a quiz for our library.\n{question} Thanks a lot in advance."

    assert prompt_windows([text]) == [
        text,
        "Hi! I am preparing a quiz for our library.",
        question,
        "Thanks a lot in advance.",
    ]


def test_too_many_windows_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the limit there is an error, and never a silent cut."""
    monkeypatch.setattr(windows, "MAX_WINDOWS", 3)
    with pytest.raises(PromptTooLong):
        prompt_windows([" ".join(f"w{n}" for n in range(500))])
