"""Tests of alias matching."""

from __future__ import annotations

import pytest

from detectors.alias import AliasMatcher, PhraseIndex

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


def test_no_aliases_match_nothing() -> None:
    """An empty set is no special case for the caller."""
    assert AliasMatcher([]).targets(["anything"]) == set()


def test_equal_phrases_are_all_reported() -> None:
    """Two owners of one folded phrase are both found."""
    assert PhraseIndex(["Cafe", "café", "tea"]).find("A café.") == {0, 1}
