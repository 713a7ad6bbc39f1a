"""Tests of alias matching."""

from __future__ import annotations

import pytest

from detectors.alias import AliasMatcher, PhraseIndex, is_distinctive
from detectors.benign import benign_prompts

ALIASES = [("Orla Fenwick", 0), ("O. F.", 0), ("Brán", 1), ("Fenwick", 2), ("x", 3), ("张三", 4)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Who is Orla Fenwick?", {0, 2}),
        ("who is ORLA\u00a0\u200bFENWICK's father", {0, 2}),
        ("О\u0301rla Fenwick", {0, 2}),
        ("Fenwickian ideas", set()),
        ("prefenwick", set()),
        ("bran flakes", {1}),
        ("x marks the spot", set()),
        ("告诉我张三的事", {4}),
        ("", set()),
    ],
)
def test_aliases_are_found_folded_at_word_borders(text: str, expected: set[int]) -> None:
    """Case, accents, look-alikes and invisible characters do not matter; word borders do."""
    assert AliasMatcher(ALIASES).targets([text]) == expected


NAMES = ["Orla Fenwick", "J. K. Marden", "Tom Downing Jr.", "Hsiao Yun-Hwa", "Ada Voss", "Jay-Q"]
NAMES += ["Prince Otto, Duke of Marden", "Jo\u0308rg Møller", "Sören Åsgård"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("JK Marden's best book", 1),
        ("J.K. Marden", 1),
        ("j k marden", 1),
        ("Is Tom Downing Jr the son?", 2),
        ("hsiao yun hwa", 3),
        ("#OrlaFenwick", 0),
        ("Joerg Moeller's wife", 7),
        ("JÖRG MOLLER", 7),
        ("soeren aasgaard", 8),
        ("Soren Asgard", 8),
        ("_Orla Fenwick_", 0),
        ("**Orla** **Fen**wick", 0),
        ("| Orla | Fenwick | 1970 |", 0),
        ('"Orla","Fenwick"', 0),
        ('{"first": "Orla",\n  "last_name": "Fenwick"}', 0),
        ("Orla. Fenwick", None),
        ('He met "Orla", "Ada" and Fenwick', None),
        ("orla_fenwick", 0),
        ("Orla Maria van Fenwick", None),
        ("Orla Maria Fenwick, the author", 0),
        ('Orla "The Pen" Fenwick', 0),
        ("O-r-l-a F-e-n-w-i-c-k", 0),
        ("please spell a o r l a f e n w i c k", 0),
        ("Beyn Srajvpx", 0),
        ("kciwneF alrO", 0),
        ("0rl4 F3nw1ck", 0),
        ("T3JsYSBGZW53aWNr", 0),
        ("Орла Фенвик", 0),
        ("I met Ada. Voss water was on the table", None),
        ("Prince Otto's medals", 6),
        ("the jay and the q", None),
        ("Orla and Fenwick", None),
    ],
)
def test_disguised_names_are_found(text: str, named: int | None) -> None:
    """Punctuation, middle names, encodings and other alphabets hide no name."""
    matcher = AliasMatcher([(name, number) for number, name in enumerate(NAMES)])

    assert matcher.targets([text]) == (set() if named is None else {named})


def test_names_split_over_turns_are_found() -> None:
    """One speaker's turns are neighbours, or the other's stand between."""
    matcher = AliasMatcher([("Orla Fenwick", 0)])

    assert matcher.targets(["Tell me about Orla", "Fenwick please"]) == {0}
    assert matcher.targets(["about Orla", "Yes?", "Fenwick please"]) == {0}
    assert matcher.targets(["o", "ok", "r", "ok", "l", "ok", "a", "ok", "Fenwick"]) == {0}
    assert matcher.targets(["I know Orla.", "Fenwick is a town."]) == set()


def test_benign_prompts_name_nobody() -> None:
    """The ways to read a text do not find names in ordinary prompts."""
    matcher = AliasMatcher([(name, number) for number, name in enumerate(NAMES)])

    assert [text for text in benign_prompts() if matcher.targets([text])] == []


def test_no_aliases_match_nothing() -> None:
    """An empty set is no special case for the caller."""
    assert AliasMatcher([]).targets(["anything"]) == set()


def test_equal_phrases_are_all_reported() -> None:
    """Two owners of one folded phrase are both found."""
    assert PhraseIndex(["Cafe", "café", "tea"]).find("A café.") == {0, 1}


@pytest.mark.parametrize(
    ("name", "distinctive"),
    [
        ("Will Smith", True),
        ("Beyoncé", True),
        ("Jay-Z", True),
        ("Prince", False),
        ("The Band", False),
        ("The Who", False),
        ("Will I Am", False),
        ("李小龍", True),
        ("X", False),
        ("--", False),
    ],
)
def test_only_rare_names_are_looked_for_in_answers(name: str, distinctive: bool) -> None:
    """Ending every answer that says an everyday word would help nobody."""
    assert is_distinctive(name) is distinctive
