"""Taking over another index's segments: the same answers, and nothing where it does not fit."""

import pytest

from guard.background import word_view
from tracing.document import Document
from tracing.errors import IndexCorrupt, IndexMismatch, IndexMissing
from tracing.index import Index
from tracing.matching import maximal_spans
from tracing.transfer import take_over

TEXTS = ["abcdefgh", "cdefxyzab", "abcabcabc", "zzzz"]


@pytest.fixture
def source(letters, tmp_path):
    """Two segments; the third document is withdrawn."""
    index = Index(tmp_path / "source", letters, depth=3)
    index.add(map(Document, TEXTS[:2]))
    index.add(map(Document, TEXTS[2:]))
    index.withdraw([2])
    index.close()
    return tmp_path / "source"


def test_it_answers_as_the_source_does(source, letters, tmp_path):
    """Numbers, withdrawals and matches are the source's, and new documents follow."""
    theirs = Index(source, letters, read_only=True)
    index = Index(tmp_path / "own", letters, depth=3)
    told = []
    taken = take_over(index, source, lambda *progress: told.append(progress))

    assert taken == [0, 1, 3]
    assert told == [(0, 2), (1, 2)]
    query = letters.symbols("xabcdefxyzabcabczzz")
    spans = maximal_spans(index.view, query, 3)
    assert spans
    assert spans == maximal_spans(theirs.view, query, 3)
    assert index.add([Document("new")]) == [4]
    assert index.view.document(3).text == "zzzz"
    index.close()
    assert Index(tmp_path / "own", letters, depth=3).view.live_ids() == [0, 1, 3, 4]


def test_it_is_one_change(source, letters, tmp_path):
    """Whoever is killed in it leaves all or nothing, never documents that are withdrawn there."""
    index = Index(tmp_path / "own", letters, depth=3)
    take_over(index, source)

    assert index.view.generation == 1


def test_an_index_that_had_documents_takes_none_over(source, letters, tmp_path):
    """Their numbers would be taken."""
    index = Index(tmp_path / "own", letters, depth=3)
    index.add([Document("abc")])
    index.withdraw([0], erase=True)

    with pytest.raises(IndexMismatch, match="never had"):
        take_over(index, source)


def test_what_does_not_fit_leaves_nothing(source, letters, tmp_path):
    """Another view, a longer shortest match, a flipped bit, and a segment that is gone."""
    with pytest.raises(IndexMismatch, match="holds"):
        take_over(Index(tmp_path / "words", word_view(), depth=3), source)
    with pytest.raises(IndexMismatch, match="from 3 words on"):
        take_over(Index(tmp_path / "short", letters, depth=2), source)
    with pytest.raises(IndexMissing):
        take_over(Index(tmp_path / "none", letters, depth=3), tmp_path / "nowhere")
    index = Index(tmp_path / "own", letters, depth=3)
    segment = min(source.glob("*.segment"))
    raw = bytearray(segment.read_bytes())
    raw[-3] ^= 4
    segment.write_bytes(raw)
    with pytest.raises(IndexCorrupt):
        take_over(index, source)
    segment.unlink()
    with pytest.raises(IndexMissing):
        take_over(index, source)

    assert index.view.segments == ()
    assert [p for p in (tmp_path / "own").iterdir() if p.suffix == ".segment"] == []
