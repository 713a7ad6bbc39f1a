"""Matches against the plain definition."""

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tracing.matching import (
    Occurrence,
    Span,
    matched_lengths,
    maximal_spans,
    occurrences,
    streamed_lengths,
)

LETTERS = st.text(alphabet="abc", max_size=14)
SEGMENTS = st.lists(st.lists(LETTERS, max_size=4), min_size=1, max_size=3)
CHECKS = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=150,
)


def _texts(segments, gone=()):
    texts = [text for segment in segments for text in segment]
    return {number: text for number, text in enumerate(texts) if number not in gone}


@CHECKS
@given(SEGMENTS, st.sets(st.integers(0, 11)), LETTERS, st.integers(1, 6))
def test_matches_are_exact(open_index, letters, oracle, segments, withdrawn, output, minimum):
    """Lengths, maximal spans, counts and documents are those of comparing strings.

    Over several segments, with some documents withdrawn, below and above the gate's depth.
    """
    index = open_index(*segments)
    gone = withdrawn & set(index.view.live_ids())
    index.withdraw(gone)
    plain = oracle(_texts(segments, gone))
    query = letters.symbols(output)

    lengths = matched_lengths(index.view, query, minimum).tolist()
    spans = [s for s in maximal_spans(index.view, query, minimum) if not s.whole]
    short = max(1, min(minimum, len(output)))

    assert plain.lengths(output, minimum) == lengths
    assert plain.spans(output, short) == [(s.start, s.end, s.count) for s in spans]
    for span in spans:
        found = occurrences(index.view, query, span, limit=1000)
        places = plain.places(output[span.start : span.end])
        assert sorted(places) == sorted((o.document_id, o.first) for o in found)


@CHECKS
@given(SEGMENTS, LETTERS, st.integers(1, 6))
def test_streaming_agrees_with_the_whole(open_index, letters, segments, output, minimum):
    """Row by row and without state, each place has the length that the whole output gives it."""
    view = open_index(*segments).view
    query = letters.symbols(output)
    n = len(query)
    rows = np.zeros((n, 16), np.uint32)
    for i in range(n):
        rows[i, 15 - i :] = query[: i + 1]

    found = streamed_lengths(view, rows, np.arange(1, n + 1), minimum)

    assert matched_lengths(view, query, minimum).tolist() == found.tolist()


@CHECKS
@given(SEGMENTS, st.sets(st.integers(0, 11)), LETTERS, st.integers(2, 7))
def test_short_documents_are_found_whole(open_index, letters, segments, withdrawn, output, depth):
    """A document below the minimum is found where all of it stands in the output.

    Whatever minimum the index was made for.
    """
    index = open_index(*segments, depth=depth)
    gone = withdrawn & set(index.view.live_ids())
    index.withdraw(gone)
    texts = _texts(segments, gone).values()
    spans = maximal_spans(index.view, letters.symbols(output), 5)
    long = [(s.start, s.end) for s in spans]
    minimum = min(5, len(output))
    held = [(a, b) for a in range(len(output)) for b in range(a + 1, len(output) + 1)]
    whole = [(a, b) for a, b in held if output[a:b] in texts and b - a < minimum]

    covered = [(a, b) for a, b in whole if any(x <= a and b <= y for x, y in long)]

    assert whole == covered
    for span in spans:
        copies = sum(text == output[span.start : span.end] for text in texts)
        assert not span.whole or span.count == copies > 0


def test_every_copy_of_a_text_can_be_withdrawn(open_index, letters):
    """After all of many copies are withdrawn nothing matches, and what is like them still does."""
    index = open_index(["abcabc" * 20] * 300 + ["xabcabcy"])
    query = letters.symbols("zabcabcabcz")

    before = maximal_spans(index.view, query, 3)
    index.withdraw(range(300))
    after = maximal_spans(index.view, query, 3)

    assert [Span(1, 10, 300 * 38)] == before
    assert [Span(1, 7, 1), Span(4, 10, 1)] == after
    assert [Occurrence(300, 1)] == occurrences(index.view, query, after[0])


def test_a_short_answer_is_not_free(open_index, letters):
    """An output below the minimum matches as a whole or not at all."""
    view = open_index(["the quick brown fox"]).view

    assert [Span(0, 5, 1)] == maximal_spans(view, letters.symbols("quick"), 8)
    assert [] == maximal_spans(view, letters.symbols("quack"), 8)
    assert [] == maximal_spans(view, letters.symbols(""), 8)


def test_symbols_of_32_bits(tmp_path, letters):
    """Symbols at the upper end of their range are found."""
    from tracing.document import Document
    from tracing.index import Index

    class Wide:
        name = "wide"

        def symbols(self, text):
            return (2**32 - letters.symbols(text).astype(np.int64)).astype(np.uint32)

    index = Index(tmp_path / "x", Wide(), depth=3)
    index.add([Document("hello world")])
    found = maximal_spans(index.view, Wide().symbols("say hello"), 3)
    index.close()

    assert [Span(4, 9, 1)] == found
