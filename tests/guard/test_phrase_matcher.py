"""The phrase matcher: folded spellings, word borders, first end, open starts."""

from __future__ import annotations

import pytest

from detectors.targets import Phrase
from guard.phrase_matcher import Match, PhraseMatcher


def _matcher(*phrases: str, whole_word: bool = True) -> PhraseMatcher:
    return PhraseMatcher(Phrase(phrase, whole_word) for phrase in phrases)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("met John Smith.", Match(4, 14)),
        ("met JOHN  SMITH.", Match(4, 15)),
        ("met Jo\u200bhn\u00a0Smith", Match(4, 15)),
        ("met \uff2aohn Smith", Match(4, 14)),
        ("met J\u043ehn Smith", Match(4, 14)),
        ("met _John Smith_.", Match(5, 15)),
        ("met **John** *Smith*", Match(6, 19)),
        ("met Jo**hn** __Smith__", Match(4, 20)),
        ("met john_smith_jr", Match(4, 14)),
        ("met Johnsmith", None),
        ("met John Smithson", None),
        ("aJohn Smith", None),
        ("", None),
    ],
)
def test_finds_every_declared_spelling_between_word_borders(text: str, found: Match | None) -> None:
    """An occurrence is found in any spelling that folds alike, and only between word borders."""
    assert _matcher("John Smith").find(text) == found


def test_a_phrase_without_borders_is_found_inside_a_word() -> None:
    """`whole_word=False` finds the phrase anywhere."""
    assert _matcher("ohn", whole_word=False).find("Johnny") == Match(1, 4)


def test_reports_the_occurrence_that_ends_first() -> None:
    """Of overlapping phrases the one that a reader completes first is reported."""
    found = _matcher("green small house", "small").find("a green small house")

    assert found == Match(8, 13)


def test_at_equal_ends_the_longest_is_reported() -> None:
    """Two phrases that end together are reported by the longer one."""
    assert _matcher("small house", "house").find("a small house.") == Match(2, 13)


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("I met", 0),
        ("I met J", 1),
        ("I met John ", 5),
        ("I met John Smith", 10),
        ("I met aJohn", 0),
        ("I met John Smithy", 0),
        ("J", 1),
        ("J\u200b", 2),
    ],
)
def test_held_covers_what_may_still_become_an_occurrence(text: str, held: int) -> None:
    """The held tail begins where an unfinished occurrence begins."""
    assert _matcher("John Smith").held(text) == held


def test_a_matcher_of_nothing_finds_nothing() -> None:
    """Empty and invisible phrases are ignored."""
    empty = _matcher("", " ", "\u200b")

    assert not empty
    assert empty.find("anything") is None
    assert empty.held("anything") == 0


def test_the_repr_tells_no_phrase() -> None:
    """Phrases are secret: a logged matcher shows only how many it holds."""
    assert repr(_matcher("John Smith")) == "PhraseMatcher(1 phrases)"
