"""The veto's table against the plain definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracing.errors import IndexCorrupt
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


def test_a_table_can_be_stored(tmp_path):
    """What comes back vetoes the same; no run of tokens can be found in it; damage is refused."""
    document = list(range(100, 200))
    table = compile_successors([document, *([1, 2, 3, 4, i] for i in range(100))], 5, 300)
    path = tmp_path / "table"
    table.write(path)
    again = SuccessorTable.open(path)
    other = compile_successors([document], 5, 300)
    rows = _rows([document[:50], [1, 2, 3, 4]], 4)

    assert [[150], list(range(100))] == again.vetoes(*rows) == table.vetoes(*rows)
    assert not np.array_equal(other.keys, table.keys)
    assert document != table.tokens.tolist()[:100]
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(IndexCorrupt):
        SuccessorTable.open(path)
    with pytest.raises(ValueError, match="two"):
        compile_successors([], 1, 10)
