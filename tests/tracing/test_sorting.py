"""Suffix sorting."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tracing.sorting import suffix_array


@given(st.lists(st.integers(0, 3), max_size=80))
def test_suffixes_are_sorted(symbols):
    """The result is what sorting all suffixes gives, also with few symbols and long repeats."""
    found = suffix_array(np.array(symbols, np.int32), 4)
    expected = sorted(range(len(symbols)), key=lambda start: symbols[start:])

    assert expected == found.tolist()


def test_duplicates_do_not_slow_it_down():
    """A text that is one page over and over is sorted in order."""
    text = np.tile(np.arange(500, dtype=np.int32), 200)

    found = suffix_array(text, 500).astype(np.int64)

    heads = text[found]
    assert sorted(found.tolist()) == list(range(len(text)))
    assert (np.diff(heads) >= 0).all()
    # Of equal beginnings, the one that is nearer to the end of the text is the shorter suffix.
    assert (np.diff(found.reshape(500, 200), axis=1) < 0).all()
