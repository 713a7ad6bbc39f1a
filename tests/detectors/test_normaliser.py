"""The declared set of equal spellings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.normaliser import at_border, fold, fold_with_origins, is_word_char


@pytest.mark.parametrize(
    ("written", "folded"),
    [
        ("José", "jose"),
        ("Jose\u0301", "jose"),
        ("JOSÉ", "jose"),
        ("Straße", "strasse"),
        ("\u0410\u043d\u043d\u0430", "ahha"),
        ("Jоhn Smіth", "john smith"),  # Cyrillic o and i
        ("Ｊｏｈｎ", "john"),
        ("𝐉𝐨𝐡𝐧", "john"),
        ("Jo\u200bh\u00adn", "john"),
        ("John\u00a0 \n\tSmith", "john smith"),
        ("O’Brien", "o'brien"),
        ("O´Brien", "o'brien"),
        ("Jean—Luc", "jean-luc"),
        ("ﬁne", "fine"),
        ("١٩٨٤", "1984"),
        ("Søren", "soren"),
        ("\u03f9\u03f2", "cc"),  # Greek lunate sigma, both cases
        ("ʟᴇᴛʜᴇ", "lethe"),
        ("ғɪғᴛʜ", "fifth"),  # with a Cyrillic letter, as generators of small capitals give it
        ("ⓁⒺⓉⒽⒺ 🄻🄴🅃🄷🄴", "lethe lethe"),
        ("🅛🅔🅣🅗🅔 🅻🅴🆃🅷🅴 ⒧⒠⒯⒣⒠", "lethe lethe lethe"),
        ("Ɓaƙiɗo Ɍuđ", "bakido rud"),
        ("Coŀlegi", "col·legi"),
        ("Jo**hn** *Smith*", "john smith"),
        ("John __Smith__, john_smith", "john smith , john smith"),
        ("홍길동", "홍길동"),
        ("a\x00b", "ab"),
        ("\ud800", "\ufffd"),
    ],
)
def test_declared_spellings_fold_alike(written, folded):
    """Each declared spelling folds to the plain one."""
    assert folded == fold(written)


@given(st.text())
def test_fold_is_idempotent(text):
    """Folding a folded text changes nothing."""
    once = fold(text)

    assert once == fold(once)


@given(st.text(), st.text())
def test_fold_is_local(left, right):
    """Two parts fold to what the whole folds to, but for white space at the seam."""
    whole = fold(left + right)
    parts = fold(left) + fold(right)

    assert whole == fold(parts)


@given(st.text())
def test_fold_ignores_case(text):
    """Case never matters where Python can change it one character at a time and back."""
    swapped = "".join(c.upper() if c.upper().lower() == c else c for c in text)

    assert fold(text) == fold(swapped)


@given(st.text())
def test_origins_point_into_the_text(text):
    """Every folded character names the raw character it came from, in order."""
    folded, origins = fold_with_origins(text)

    assert folded == fold(text)
    assert len(folded) == len(origins)
    assert list(origins) == sorted(origins)
    assert all(0 <= i < len(text) for i in origins)


def test_word_borders():
    """Letters and digits of spaced scripts make words; Han, Kana, Thai and Hangul do not."""
    assert [is_word_char(c) for c in "aя9क"] == [True] * 4
    assert [is_word_char(c) for c in "漢かカ한ก -'_"] == [False] * 9
    assert at_border("a", " ")
    assert at_border("", "a")
    assert at_border("漢", "字")
    assert not at_border("a", "b")
