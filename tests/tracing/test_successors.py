"""The veto's table against the plain definition."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tracing.matching import Span, occurrences
from tracing.successors import SuccessorTable, compile_successors

TOKENS = st.lists(st.integers(0, 3), max_size=12)


def _plain(documents, n, shortest, never, row):
    """Every token after any occurrence of the row's last n - 1; whole documents below n too."""
    found = set()
    for document in documents:
        size = min(n, len(document))
        if size < shortest:
            continue
        for start in range(len(document) - size + 1):
            run, token = document[start : start + size - 1], document[start + size - 1]
            if row[len(row) - len(run) :] == run and len(row) >= len(run):
                found.add(token)
    return sorted(found - set(never))


def _rows(rows, width):
    filled = np.full((len(rows), width), 9, np.int64)
    for i, row in enumerate(rows):
        kept = row[-width:]
        filled[i, width - len(kept) :] = kept
    return filled, np.array([min(len(row), width) for row in rows], np.int64)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(TOKENS, max_size=5),
    st.lists(TOKENS, min_size=1, max_size=4),
    st.integers(2, 5),
    st.sets(st.integers(0, 3), max_size=1),
)
def test_vetoes_are_exact(documents, rows, n, never):
    """The forbidden tokens are the successors of every occurrence, and no others."""
    table = compile_successors(documents, n, 10, never=sorted(never))
    expected = [_plain(documents, n, 2, never, row) for row in rows]

    found = table.vetoes(*_rows(rows, 6))

    assert expected == found


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(TOKENS, st.integers(2, 5)), max_size=5),
    st.lists(TOKENS, min_size=1, max_size=4),
    st.integers(2, 5),
)
def test_every_document_has_its_own_limit(documents, rows, shortest):
    """One table over documents of several limits vetoes what one table for each does."""
    texts, limits = [d for d, _ in documents], [n for _, n in documents]
    table = compile_successors(texts, limits, 10, shortest=shortest)
    expected = [
        sorted(set().union(*(_plain([d], n, min(shortest, n), [], row) for d, n in documents)))
        for row in rows
    ]

    assert expected == table.vetoes(*_rows(rows, 6))


@settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.lists(st.lists(TOKENS, min_size=1, max_size=3), min_size=1, max_size=3),
    st.sets(st.integers(0, 8), max_size=3),
    st.lists(TOKENS, min_size=1, max_size=4),
    st.integers(2, 5),
)
def test_the_table_agrees_with_the_token_view(open_index, batches, gone, rows, n):
    """At every step: the vetoed tokens are those behind all live occurrences in the index.

    The index has a token as the character behind it, as no symbol is 0.
    """
    index = open_index(*(["".join(chr(t + 1) for t in d) for d in batch] for batch in batches))
    index.withdraw(gone & set(index.view.live_ids()))
    live = {number: index.view.document(number).text for number in index.view.live_ids()}
    table = compile_successors(
        [[ord(char) - 1 for char in text] for text in live.values()], n, 10, shortest=n
    )

    for row in rows:
        for end in range(n - 1, len(row) + 1):
            run = np.array([token + 1 for token in row[end - n + 1 : end]], np.uint32)
            found = occurrences(index.view, run, Span(0, n - 1, 0), limit=1000)
            behind = {live[at.document_id][at.first + n - 1 :][:1] for at in found}

            assert [sorted(ord(char) - 1 for char in behind - {""})] == table.vetoes(
                *_rows([row[:end]], n)
            )


@settings(deadline=None, max_examples=50)
@given(st.lists(TOKENS, min_size=1, max_size=4), st.integers(2, 5), st.randoms())
def test_no_registered_run_can_be_written(documents, n, random):
    """Whoever takes any token but the forbidden ones never writes a registered n-gram."""
    table = compile_successors(documents, n, 4)
    grams = {tuple(d[i : i + n]) for d in documents for i in range(len(d) - n + 1)}
    text = []
    for _ in range(40):
        [vetoed] = table.vetoes(*_rows([text], n))
        free = [token for token in range(4) if token not in vetoed]
        if not free:
            break
        text.append(random.choice(free))

    assert not grams & {tuple(text[i : i + n]) for i in range(len(text) - n + 1)}


def test_runs_with_many_successors_are_complete():
    """Every one of a thousand successors of a run is forbidden, in the list and in logits."""
    documents = [[1, 2, token] for token in range(1000)]
    table = compile_successors(documents, 3, 1003)
    rows, sizes = _rows([[1, 2], [2, 1]], 2)
    logits = np.zeros((2, 1003), np.float32)

    count = table.forbid(rows, sizes, logits)

    assert 1000 == count == len(table.vetoes(rows, sizes)[0])
    assert np.isneginf(logits[0, :1000]).all()
    assert np.isfinite(logits[0, 1000:]).all()
    assert np.isfinite(logits[1]).all()


def test_short_completions_are_covered():
    """A document below n is vetoed as a whole, also at the very beginning of an answer."""
    table = compile_successors([[5, 6, 7], [8]], 8, 10)

    assert [[7], [], []] == table.vetoes(*_rows([[5, 6], [6], []], 8))


def test_a_table_can_be_stored():
    """What comes back vetoes the same, and no run of tokens can be found in it."""
    document = list(range(100, 200))
    table = compile_successors([document, *([1, 2, 3, 4, i] for i in range(100))], 5, 300)
    again = SuccessorTable.load(table.arrays())
    other = compile_successors([document], 5, 300)
    rows = _rows([document[:50], [1, 2, 3, 4]], 4)

    assert [[150], list(range(100))] == again.vetoes(*rows) == table.vetoes(*rows)
    assert not np.array_equal(other.keys, table.keys)
    assert document != table.tokens.tolist()[:100]
    with pytest.raises(KeyError):
        SuccessorTable.load({"keys": table.keys})
    with pytest.raises(ValueError, match="two"):
        compile_successors([], 1, 10)


def test_a_table_without_some_tokens():
    """Whichever way a token was kept, it is vetoed no longer, and all others still are."""
    documents = [[1, 2, token] for token in range(100)] + [[3, 4, 5], [3, 4, 6], [7, 8, 5]]
    table = compile_successors(documents, 3, 100)
    left = table.without([5, 99, 1000])
    rows = _rows([[1, 2], [3, 4], [7, 8]], 2)
    dense = [token for token in range(99) if token != 5]

    assert [dense, [6], []] == left.vetoes(*rows)
    assert [list(range(100)), [5, 6], [5]] == table.vetoes(*rows)
    assert left.without([5]) is left


def test_an_empty_table_forbids_nothing():
    """Without documents there is nothing to look up."""
    table = compile_successors([], 3, 10)

    assert [[]] == table.vetoes(*_rows([[1, 2, 3]], 4))
