"""Tests of joined turns: what is joined, and the bounds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from detectors.turns import LAST_TURNS, name_joins, question_joins


def test_one_text_is_not_joined() -> None:
    """A single prompt is judged as it always was."""
    assert question_joins(["What is rain?"]) == []
    assert list(name_joins(["What is rain?"])) == []


def test_neighbours_and_every_second_turn_are_joined() -> None:
    """A question in pieces is whole again, with and without the other speaker's turns."""
    joins = question_joins(["What is", "Go on.", "the height", "Go on.", "of the tower?"])

    assert "What is the height of the tower?" in joins
    assert "Go on. of the tower?" in joins
    assert "the height of the tower?" in joins


def test_long_turns_give_their_near_ends() -> None:
    """The end of the earlier and the beginning of the later turn, cut between words."""
    joins = question_joins(["x" * 10 + " word" * 500, "question " * 200])

    assert len(joins[0]) <= 500
    assert joins[0].startswith("word")
    assert joins[0].endswith("question")


@given(st.lists(st.text(max_size=60), max_size=40))
def test_joins_are_bounded(texts: list[str]) -> None:
    """Their number does not depend on the conversation's length."""
    joins = question_joins(texts)

    assert len(joins) <= 4 * LAST_TURNS + 3
    assert all(len(joined) <= 2_700 for joined in joins)
