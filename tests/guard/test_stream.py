"""Folded text as a byte stream, one by one and many at once."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.normaliser import fold
from guard.stream import CharClass, char_class, stream, streams


def test_words_are_marked():
    """A border before and after each word; a last word stays open."""
    assert b"\x01ab\x02 \x01c1\x02-" == stream("ab c1-")
    assert b" \x01ab" == stream(" ab")
    assert "日\x01a".encode() == stream("日a")


@settings(deadline=None)
@given(st.lists(st.text(max_size=8) | st.text("a é日-'", max_size=8)))
def test_many_streams_equal_single_ones(texts):
    """The vectorised form gives the same bytes and the classes of both ends."""
    folded = [fold(text) for text in texts]
    found = streams(folded)

    for i, text in enumerate(folded):
        assert stream(text) == found.bytes[found.start[i] : found.start[i + 1]].tobytes()
        assert found.first[i] == (char_class(text[0]) if text else CharClass.NONE)
        assert found.last[i] == (char_class(text[-1]) if text else CharClass.NONE)
    assert len(found.start) == len(texts) + 1
    assert found.bytes.dtype == np.uint8
