"""Tests of names in other alphabets, compared by sound."""

from __future__ import annotations

import pytest

from detectors.sounds import foreign_sounds, name_sounds, sound


@pytest.mark.parametrize(
    ("latin", "foreign"),
    [
        ("Hina Ameen", "Хина Амин"),
        ("Stephen King", "Стивен Кинг"),
        ("Paris Hilton", "Пэрис Хилтон"),
        ("Carmen Montenegro", "Кармен Монтенегро"),
        ("Aristotle Maroni", "Аристотль Марони"),
        ("Hina Ameen", "Χίνα Αμίν"),
    ],
)
def test_a_name_sounds_the_same_in_another_alphabet(latin: str, foreign: str) -> None:
    """Vowels and doubled letters are spelled in many ways, consonants in few."""
    assert name_sounds(latin) == foreign_sounds(foreign)


def test_latin_words_are_not_compared() -> None:
    """Only what is written in another alphabet has foreign sounds; other words stand between."""
    assert foreign_sounds("Hina Ameen") == ""
    assert foreign_sounds("Hina Амин") == f", {sound('Амин')}"


def test_short_names_have_no_sound() -> None:
    """Too few consonants would match by chance."""
    assert name_sounds("Io Ai") is None
