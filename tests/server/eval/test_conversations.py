"""Conversations made from questions."""

from __future__ import annotations

import pytest

from detectors.disguises import hidden_language
from server.eval.conversations import DISGUISES, by_reference, in_a_row, in_pieces

QUESTION = "What is the profession of the father of Orla Fenwick?"


def test_pieces_hold_every_word_once() -> None:
    """The user's turns joined are the question."""
    turns = in_pieces(QUESTION)

    assert len(turns) == 5
    assert " ".join(turns[::2]) == QUESTION
    assert in_pieces("Why?") == ("Why?",)


def test_a_reference_replaces_the_name() -> None:
    """The last turn no longer names anybody; a question without the name makes no chain."""
    chain = by_reference(QUESTION, "Orla Fenwick")

    assert chain is not None
    assert "Orla Fenwick" in chain[0]
    assert "Orla Fenwick" not in chain[-1]
    assert by_reference("What is rain?", "Orla Fenwick") is None


def test_rows_alternate() -> None:
    """Questions stand at even places and the last word is the user's."""
    assert in_a_row(["a?", "b?"])[::2] == ("a?", "b?")


@pytest.mark.parametrize("name", DISGUISES)
def test_disguises_hide_the_words(name: str) -> None:
    """A disguised question does not show its words, and the detectors can read it."""
    disguised = DISGUISES[name](QUESTION)

    assert "profession" not in disguised
    assert any("rofession" in text for text in hidden_language(disguised))
