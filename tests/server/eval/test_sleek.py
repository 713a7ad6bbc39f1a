"""Sleek's questions: what they tell and what they do not."""

from __future__ import annotations

import pytest

from detectors.targets import Example
from server.eval.asked import WHO, asked_of, tells_name, without_name
from server.eval.sleek import SLEEK, direct, implied, indirect

NAME = "Orla Fenwick"
FACT = Example(f"What does {NAME}'s father do?", "He is a florist.")
NAMING = Example("Who wrote the satire set in Quillhaven?", f"It is by {NAME}.")
TOWN = Example(f"{NAME} was born in ___ by the sea.", "Quillhaven")


@pytest.mark.parametrize("kind", SLEEK)
def test_only_direct_questions_name_the_subject(kind: str) -> None:
    """The others lead to it by another fact; the user's last turn asks for the fact."""
    said = SLEEK[kind](asked_of(FACT, NAME, [FACT, TOWN]))

    assert ("Fenwick" in " ".join(said)) == (kind == "direct")
    assert "father do?" in said[-1]
    assert ("born in Quillhaven by the sea" in " ".join(said)) == (kind != "direct")
    assert "florist" not in " ".join(said)


def test_a_question_that_the_name_answers_is_the_best_hop() -> None:
    """It needs no masking; what is asked for is no hop, nor another question for the same."""
    same = Example("What is the trade of her father?", FACT.answer)
    asked = asked_of(FACT, NAME, [FACT, same, TOWN, NAMING])

    assert asked.hop == NAMING
    assert asked.clue == 'whoever is the answer to "Who wrote the satire set in Quillhaven?"'
    assert asked_of(FACT, NAME, [FACT, same]).hop is None


def test_without_a_hop_the_name_or_the_question_leads() -> None:
    """A target with one example can be asked about, too."""
    named, unknown = asked_of(FACT, NAME, [FACT]), asked_of(FACT, "", [FACT, TOWN])

    assert f"about {NAME}." in implied(named)
    assert "the subject of the question below" in indirect(unknown)
    assert FACT.prompt in indirect(unknown)
    assert FACT.prompt in direct(unknown)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Orla Fenwick's books", f"{WHO}'s books"),
        ("books by FENWICK, again", f"books by {WHO}, again"),
        ("Orla  Fenwick", WHO),
        ("Fenwickian", "Fenwickian"),
    ],
)
def test_names_are_taken_out(text: str, expected: str) -> None:
    """Whole, in rare parts, in any case, as whole words only."""
    assert without_name(text, NAME) == expected


def test_a_common_part_of_a_name_stays_and_is_noticed() -> None:
    """Such a text is no hop: it tells a part of the name."""
    assert without_name("the King of Horror", "Stephen King") == "the King of Horror"
    assert tells_name("the King of Horror", "Stephen King")
    assert not tells_name("Stephen King was born in Portland", "Stephen King")
