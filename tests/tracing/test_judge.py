"""TraceShield's judgement against its plain definition."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracing.bci import PUBLISHED_TAU, Unigrams
from tracing.document import Document
from tracing.index import Index
from tracing.judge import Judge, Trail, Watched

NATS = {"a": 2.0, "b": 6.0, "c": 15.0, "-": 9.0}
UNIGRAMS = Unigrams(lambda word: math.exp(-NATS[word]))
TEXTS = st.lists(st.text("abc", min_size=1, max_size=14), max_size=5)


def _count(texts, span):
    return sum(
        text.startswith(span, at) for text in texts for at in range(len(text) - len(span) + 1)
    )


def _is_refused(window, texts, allowed, minimum, threshold, frequency):
    nats = [NATS[letter] for letter in window]
    mean = sum(nats) / len(nats)
    if mean <= threshold + 1e-9 or not _count(texts, window):
        return False
    if len(window) < minimum:
        return window in texts and sum(nats) > PUBLISHED_TAU and not _count(allowed, window)
    free = any(
        _count(allowed, window[at : at + minimum]) for at in range(len(window) - minimum + 1)
    )
    return not free and (frequency is None or _count(texts, window) <= frequency)


def _first_end(output, *rules):
    """Where the first window ends that must not be given away."""
    minimum = rules[2]
    for end in range(1, len(output) + 1):
        windows = (output[start:end] for start in range(max(0, end - 2 * minimum + 1), end))
        if any(_is_refused(window, *rules) for window in windows):
            return end
    return None


@pytest.fixture(scope="module")
def build(tmp_path_factory, letters):
    """Make a judge of texts."""
    opened = []

    def make(texts, allowed=(), minimum=4, threshold=5.0, frequency=None):
        views = []
        for part in (texts, allowed):
            index = Index(tmp_path_factory.mktemp("index") / "x", letters, depth=minimum)
            opened.append(index)
            for half in (part[::2], part[1::2]):
                index.add(Document(text) for text in half)
            views.append(index.view)
        watched = Watched("x", "forget", views[0], minimum, threshold, frequency)
        return Judge((watched,), (views[1],), UNIGRAMS)

    yield make
    for index in opened:
        index.close()


@settings(max_examples=50, deadline=None)
@given(
    TEXTS,
    TEXTS,
    st.text("abc", max_size=24),
    st.integers(3, 5),
    st.sampled_from([0.0, 5.0, 8.0]),
    st.sampled_from([None, 1, 2]),
    st.lists(st.integers(1, 6), min_size=30, max_size=30),
)
def test_the_first_refused_window(
    letters, build, texts, allowed, output, minimum, threshold, frequency, sizes
):
    """However a text is cut, it is refused at the first place of the plain definition."""
    judge = build(texts, allowed, minimum, threshold, frequency)
    trail, found = Trail(judge), None
    rest = output
    for size in sizes:
        piece, rest = rest[:size], rest[size:]
        found = found or trail.take(letters.symbols(piece), list(piece)).refused

    rules = (texts, allowed, minimum, threshold, frequency)
    assert _first_end(output, *rules) == (None if found is None else found.end)
    if found is not None:
        window = output[found.start : found.end]
        assert _is_refused(window, *rules)
        assert found.count == _count(texts, window)
        assert found.raw == pytest.approx(sum(NATS[letter] for letter in window))
        assert len(found.sources) == min(5, found.count)
        for source in found.sources:
            at = source.first
            # Added in two halves, to two segments.
            added = [*texts[::2], *texts[1::2]]
            assert added[source.document_id][at : at + len(window)] == window


@settings(max_examples=40, deadline=None)
@given(TEXTS, st.text("abc", max_size=16), st.integers(3, 5))
def test_what_is_held_covers_every_growing_match(letters, build, texts, output, minimum):
    """No word is let go that is part of a match which may still reach the minimum."""
    judge = build(texts, (), minimum, 0.0)
    trail = Trail(judge)
    for end, letter in enumerate(output, 1):
        judgement = trail.take(letters.symbols(letter), [letter])
        matched = max(
            (n for n in range(end + 1) if _count(texts, output[end - n : end])), default=0
        )

        if judgement.refused is not None:
            break
        assert judgement.held == min(matched, minimum - 1)


def test_short_texts(letters, build):
    """A whole text below the minimum is refused if it occurs and is as rare as a secret."""
    judge = build(["abcaccab"], (), 4, 0.0)

    def finish(text):
        trail = Trail(judge)
        assert trail.take(letters.symbols(text), list(text)).refused is None
        return trail.finish()

    assert finish("acc") is None  # 32 nats, 10.7 per word
    assert finish("cc").raw == 30.0
    assert finish("c") is None  # 15 nats
    assert finish("cb") is None  # occurs nowhere
    assert finish("") is None


def test_windows_agree_with_the_stream(letters, build):
    """The audit's windows are those that end a stream, all of them."""
    judge = build(["abcabcc--"], (), 4, 6.0)
    output = "aabcabcaabcc"
    symbols = letters.symbols(output)
    windows = Trail(judge).windows(symbols, list(output))
    refused = Trail(judge).take(symbols, list(output)).refused

    assert windows[0] == (refused.start, refused.end)
    assert [end for _, end in windows] == [
        end
        for end in range(1, len(output) + 1)
        if any(
            _is_refused(output[start:end], ["abcabcc--"], (), 4, 6.0, None) for start in range(end)
        )
    ]
    assert Trail(judge).best(symbols, list(output)) == pytest.approx(
        max(
            sum(NATS[x] for x in output[a:b]) / (b - a)
            for b in range(len(output) + 1)
            for a in range(b - 3)
            if _count(["abcabcc--"], output[a:b])
        )
    )


def test_several_corpora_have_their_own_limits(letters, build):
    """The first window of any corpus ends a text; its finding names the corpus."""
    strict = build(["abcabc"], (), 3, 0.0).watched[0]
    lenient = build(["abcabc", "ccccccc"], (), 6, 0.0).watched[0]
    judge = Judge((lenient, strict), (), UNIGRAMS)
    refused = Trail(judge).take(letters.symbols("abcabc"), list("abcabc")).refused
    other = Trail(judge).take(letters.symbols("cccccccc"), list("cccccccc")).refused

    assert (refused.corpus, refused.end) == (strict, 3)
    assert (other.corpus, other.end) == (lenient, 6)
    assert judge.width == 11
    assert np.isclose(refused.nats, 23 / 3)
