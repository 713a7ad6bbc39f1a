"""Building and searching on three real Ray workers, against one process."""

import json
import random
import warnings

import pytest

from guard.background import background, word_view
from server.provenance.files import documents_of
from tracing.attribution import Limits, attribute
from tracing.cluster import Cluster, build_on, connected, shards_of
from tracing.document import Document
from tracing.errors import ClusterUnavailable, IndexCorrupt, UnknownDocument
from tracing.index import Index
from tracing.matching import Span, maximal_spans, occurrences

WORKERS = 3
WORDS = ["the", "old", "keeper", "counted", "eleven", "copper", "kettles", "before", "fog", "took"]


@pytest.fixture(scope="module")
def ray():
    """Ray with three workers on this machine."""
    pytest.importorskip("ray", reason="Ray is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with connected("local", WORKERS) as session:
            yield session


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Seven files of documents, with copies among them."""
    rng = random.Random(5)
    folder = tmp_path_factory.mktemp("texts")
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(2, 60))) for _ in range(120)]
    for number in range(7):
        lines = [json.dumps({"text": rng.choice(texts), "source": f"{number}"}) for _ in range(30)]
        (folder / f"{number}.jsonl").write_text("\n".join(lines))
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def outputs(files):
    """Texts that repeat parts of the documents, and the short ones whole."""
    rng = random.Random(7)
    documents = [d.text.split() for path in files for d in documents_of(path)]
    found = []
    for _ in range(12):
        words = []
        for document in rng.sample(documents, 6):
            start = rng.randrange(len(document))
            words += document[start : start + 25] + rng.choices(WORDS, k=3)
        found.append(" ".join(words))
    return [*found, "", "nothing of this", "copper"]


@pytest.fixture(scope="module")
def built(ray, files, tmp_path_factory):
    """The index that the workers built, open for writing."""
    index = Index(tmp_path_factory.mktemp("cluster") / "x", word_view(), depth=5)
    told = []
    shards = shards_of(files, 5)
    added = build_on(ray, index, shards, documents_of, lambda *at: told.append(at))

    assert added == list(range(210))
    assert told[0] == (0, 5)
    assert told[-1] == (5, 5)
    yield index, [d for shard in shards for path in shard for d in documents_of(path)]
    index.close()


def _count(words, documents):
    size = len(words)
    return sum(
        document[at : at + size] == words
        for document in documents
        for at in range(len(document) - size + 1)
    )


def test_it_is_the_index_that_one_process_builds(built, tmp_path):
    """The same documents under the same numbers, in as many segments as there were shards."""
    index, documents = built
    names = {segment.name for segment in index.view.segments}

    assert len(names) == 5
    assert [index.view.document(n) for n in index.view.live_ids()] == documents
    again = Index(index.view.segments[0].container.path.parent, word_view(), read_only=True)
    assert {segment.name for segment in again.view.segments} == names


def test_a_cluster_finds_what_one_process_does(ray, built, outputs, tmp_path):
    """Spans, counts, whole short documents, scores and sources; also of withdrawn documents."""
    index, documents = built
    alone = Index(tmp_path / "alone", word_view(), depth=5)
    alone.add(documents)
    cluster = Cluster(ray, index.view.segments[0].container.path.parent, WORKERS)
    for gone in ([], list(range(0, 60, 2))):
        if gone:
            index.withdraw(gone)
            alone.withdraw(gone)
            index.add([Document("the fog took eleven kettles again and again", "new")])
            alone.add([Document("the fog took eleven kettles again and again", "new")])
            cluster.refresh()
        live = [alone.view.document(n).text.split() for n in alone.view.live_ids()]
        for output in outputs:
            words = word_view().words(output)
            nats = background().surprisal(words.folded)
            spans = maximal_spans(cluster, words.symbols, 5)
            limits = Limits(5, max_frequency=2, max_documents=1000)
            expected = attribute(alone.view, words.symbols, nats, limits)
            found = attribute(cluster, words.symbols, nats, limits)

            assert spans == maximal_spans(alone.view, words.symbols, 5)
            assert [s.count for s in spans if not s.whole] == [
                _count(words.folded[s.start : s.end], live) for s in spans if not s.whole
            ]
            assert [(a.span, a.refused, a.best) for a in found] == [
                (a.span, a.refused, a.best) for a in expected
            ]
            assert [set(a.sources) for a in found] == [set(a.sources) for a in expected]
    assert cluster.generation == index.view.generation
    assert cluster.document(210).source == "new"
    with pytest.raises(UnknownDocument):
        cluster.document(0)
    query = word_view().symbols("eleven kettles again")
    first = occurrences(cluster, query, Span(0, 3, 1), 1)
    assert (
        first
        == sorted(
            occurrences(cluster, query, Span(0, 3, 1), 99), key=lambda o: (o.document_id, o.first)
        )[:1]
    )
    alone.close()


def test_what_cannot_be_read_is_refused(ray, files, tmp_path):
    """A file that is no text adds nothing; a flipped bit is found by the actor that opens it."""
    index = Index(tmp_path / "x", word_view(), depth=5)
    build_on(ray, index, shards_of(files[:2], 2), documents_of)
    broken = tmp_path / "broken.jsonl"
    broken.write_text("no json\n")
    with pytest.raises(Exception, match="not JSON"):
        build_on(ray, index, [[files[0]], [broken]], documents_of)
    assert index.next_id == 60
    assert len(list((tmp_path / "x").glob("*.segment"))) == 2
    index.close()
    segment = index.view.segments[0].container.path
    raw = bytearray(segment.read_bytes())
    raw[-3] ^= 1
    segment.write_bytes(raw)
    with pytest.raises(IndexCorrupt):
        Cluster(ray, tmp_path / "x", 1)


def test_shards_are_about_equal(files):
    """Every file is in one shard, and none has much more than another."""
    shards = shards_of(files, 3)
    sizes = [sum(path.stat().st_size for path in shard) for shard in shards]

    assert sorted(path for shard in shards for path in shard) == files
    assert max(sizes) <= 2 * min(sizes)
    assert len(shards_of(files[:1], 3)) == 1


def test_without_ray_there_is_a_reason(monkeypatch):
    """A missing package, or nobody at an address, is an error of its own."""
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ClusterUnavailable, match="not installed"), connected("local"):
        pass
