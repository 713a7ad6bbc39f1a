"""Many phrases in flat arrays, against the plain way with tuples."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.normaliser import fold, is_word_char
from detectors.targets import Phrase
from guard.patterns import index_phrases, patterns_of
from guard.stream import WORD_START, stream

TEXTS = st.text("ab é日'", min_size=1, max_size=30).filter(lambda text: text.strip())
PHRASES = st.lists(st.builds(Phrase, TEXTS, st.booleans()), max_size=40)


def plain(phrase):
    """(stream, whether the word must end)."""
    text = fold(phrase.text).strip()
    found = stream(text)
    if phrase.whole_word:
        return found, is_word_char(text[-1])
    return found[1:] if found[0] == WORD_START else found, False


def tuples(patterns):
    flat, start = patterns.bytes.tobytes(), patterns.start.tolist()
    return [
        (flat[start[i] : start[i + 1]], bool(patterns.ends_word[i])) for i in range(len(patterns))
    ]


@settings(max_examples=200, deadline=None)
@given(PHRASES)
def test_patterns_are_those_of_single_phrases(phrases):
    """All at once they are what each is alone, and without repeats in the order of their bytes."""
    expected = [plain(phrase) for phrase in phrases]
    distinct, ids = index_phrases(phrases)

    assert expected == tuples(patterns_of(phrases))
    assert sorted(set(expected)) == tuples(distinct)
    assert expected == [tuples(distinct)[i] for i in ids.tolist()]
    assert distinct.longest == max((len(found) for found, _ in expected), default=0)


@settings(max_examples=50, deadline=None)
@given(PHRASES, PHRASES)
def test_patterns_can_be_joined_and_loosened(first, second):
    """Lists follow one another; chosen patterns count within words too."""
    both = patterns_of(first) + patterns_of(second)
    chosen = np.arange(len(both)) % 2 == 0
    loose = tuples(both.also_within_words(chosen))

    assert tuples(both) == [plain(phrase) for phrase in (*first, *second)]
    assert loose == [(s, e and i % 2 == 1) for i, (s, e) in enumerate(tuples(both))]
