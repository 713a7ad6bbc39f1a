"""The word view."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors import normaliser
from tracing.words import Folding, WordView

VIEW = WordView(
    Folding(
        normaliser.NORMALISER_VERSION,
        normaliser.fold,
        normaliser.fold_with_origins,
        normaliser.is_word_char,
    )
)


@pytest.mark.parametrize(
    "written",
    [
        "THE OLD MILL, BY THE RIVER",
        "the old\n   mill by\tthe river.",
        "“The old mill — by the river”",
        "the_old_mill by-the-river",
        "Ｔｈｅ ｏｌｄ mill by the ri\u00adver",
    ],
)
def test_typography_does_not_change_words(written):
    """Case, wrapping, punctuation and compatibility forms leave the symbols alone."""
    expected = VIEW.symbols("the old mill by the river").tolist()

    assert expected == VIEW.symbols(written).tolist()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("don't stop", ["don", "t", "stop"]),
        ("東京タワー", ["東", "京", "タ", "ワ", "ー"]),
        ("Python3を使う", ["python3", "を", "使", "う"]),
        ("", []),
        ("—!?", []),
        ("ﬁnal", ["final"]),
    ],
)
def test_words_are_cut(text, words):
    """Runs of letters and digits are words; scripts without spaces are cut by character."""
    found = VIEW.words(text)

    assert words == list(found.folded)
    assert len(words) == len(found.symbols)


def test_offsets_point_into_the_text():
    """A word's offsets are those of the text as it was given."""
    text = "  Ｔｈｅ ﬁrst—Jose\u0301 東"
    words = VIEW.words(text)
    cut = [text[a:b] for a, b in zip(words.starts, words.ends, strict=True)]

    assert ["Ｔｈｅ", "ﬁrst", "Jose", "東"] == cut


@given(st.text())
def test_words_and_symbols_agree(text):
    """The quick way and the one with offsets find the same, and no symbol is the separator."""
    symbols = VIEW.symbols(text)

    assert symbols.tolist() == VIEW.words(text).symbols.tolist()
    assert 0 not in symbols


@given(st.lists(st.text(alphabet="ab 東\u0301-\u200bＡ", max_size=6), max_size=8))
def test_a_stream_gives_the_same_words(pieces):
    """Words that arrive in pieces are those of the whole text."""
    stream = VIEW.stream()
    found = [symbol for piece in pieces for symbol in stream.feed(piece).tolist()]
    found += stream.finish().tolist()

    assert VIEW.symbols("".join(pieces)).tolist() == found


def test_different_words_have_different_symbols():
    """No two of many words meet in one symbol."""
    symbols = VIEW.symbols(" ".join(f"w{i}" for i in range(3000)))

    assert 3000 == len(set(symbols.tolist()))
