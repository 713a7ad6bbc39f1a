"""An index on disk: changes, crashes, damage, concurrency."""

import os
import random
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tracing.building import Recipe
from tracing.document import Document
from tracing.errors import IndexCorrupt, IndexLocked, IndexMismatch, IndexMissing, UnknownDocument
from tracing.index import Index
from tracing.matching import Span, matched_lengths, maximal_spans
from tracing.tiers import FLOOR_WORDS, due_for_merge, due_for_purge, tier

ROOT = Path(__file__).resolve().parents[2]

WRITER = """
import sys
import numpy as np
from pathlib import Path
from tracing.document import Document
from tracing.index import Index

class Letters:
    name = "letters"
    def symbols(self, text):
        return np.array([ord(char) for char in text], np.uint32)

index = Index(Path(sys.argv[1]), Letters(), depth=3)
print("open", flush=True)
while True:
    number = index._manifest.next_id
    assert [number] == index.add([Document(f"document <{number}>")])
    print(f"added {number}", flush=True)  # whole: in parts it could be killed in between
    if number % 3 == 2:
        index.withdraw([number - 1], erase=number % 2 == 0)
        print(f"withdrawn {number - 1}", flush=True)
    while index.maintain():
        pass
"""


def _reopened(index, letters, **options):
    index.close()
    return Index(index._directory, letters, **options)


def test_documents_come_back(open_index, letters):
    """Numbers go up for ever; what was added is there after reopening, with source and metadata."""
    index = open_index(["abcd", "efgh"])
    [number] = index.add([Document("ijkl", "a.txt", {"k": "v"})])
    index.withdraw([number - 1])
    again = _reopened(index, letters)
    found = again.view.document(number)
    ids = again.view.live_ids()
    fresh = again.add([Document("x")])
    again.close()

    assert [0, 2] == ids
    assert [3] == fresh
    assert Document("ijkl", "a.txt", {"k": "v"}) == found


def test_withdrawing_what_is_not_there_changes_nothing(open_index):
    """An unknown number is refused, and those given with it stay."""
    index = open_index(["abcd", "efgh"])
    index.withdraw([0])

    for gone in (0, 7):
        with pytest.raises(UnknownDocument):
            index.withdraw([1, gone])
    assert [1] == index.view.live_ids()


def test_an_erased_document_is_gone_from_disk(open_index, letters):
    """Neither its text nor its symbols are in any file of the directory."""
    index = open_index(["the secret is here", "kept"], ["also kept"])
    index.withdraw([0], erase=True)
    content = b"".join(path.read_bytes() for path in index._directory.iterdir())
    symbols = letters.symbols("the secret")[::-1].astype("<u2").tobytes()

    assert b"secret" not in content
    assert symbols not in content
    assert letters.symbols("also kept")[::-1].astype("<u2").tobytes() in content
    assert [1, 2] == index.view.live_ids()


def test_a_held_view_outlives_what_it_shows(open_index, letters):
    """A reader that took a view before an erasure reads on undisturbed."""
    index = open_index(["the secret is here"])
    view = index.view
    index.withdraw([0], erase=True)

    assert [Span(0, 6, 1)] == maximal_spans(view, letters.symbols("secret"), 3)
    assert [] == maximal_spans(index.view, letters.symbols("secret"), 3)


def test_files_are_their_owners_only(open_index):
    """Nobody else may read the directory or any file in it."""
    directory = open_index(["abcd"])._directory
    modes = {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}

    assert 0o700 == stat.S_IMODE(directory.stat().st_mode)
    assert {0o600} == modes


def test_one_process_writes(open_index, letters):
    """A second writer is refused; a reader is not, and follows what is published."""
    index = open_index(["abcd"])
    reader = Index(index._directory, letters, read_only=True)
    index.add([Document("efgh")])
    index.withdraw([0], erase=True)

    with pytest.raises(IndexLocked):
        Index(index._directory, letters)
    assert [0] == reader.view.live_ids()
    assert [1] == reader.refresh().live_ids()


def test_a_closed_index_is_free(open_index, letters):
    """Also where a process that was forked meanwhile still has its lock's file open."""
    index = open_index(["abcd"])
    inherited = os.dup(index._lock)
    index.close()
    Index(index._directory, letters).close()
    os.close(inherited)


def test_another_view_is_refused(open_index):
    """An index of other symbols cannot be opened by mistake."""
    index = open_index(["abcd"])

    class Other:
        name = "others"

    with pytest.raises(IndexMismatch):
        Index(index._directory, Other(), read_only=True)
    with pytest.raises(IndexMissing):
        Index(index._directory / "none", Other(), read_only=True)


@pytest.mark.parametrize("name", ["MANIFEST", "segment"])
def test_damage_is_refused(open_index, letters, name):
    """A flipped bit in the manifest or anywhere in a segment's arrays keeps it from opening."""
    index = open_index(["the quick brown fox"] * 50)
    [path] = [p for p in index._directory.iterdir() if p.name.endswith(name)]
    content = path.read_bytes()
    for at in range(0, len(content), max(1, len(content) // 40)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        if name == "segment" and _padding(path, content, letters):
            continue
        with pytest.raises(IndexCorrupt):
            _reopened(index, letters)
    path.write_bytes(content)
    _reopened(index, letters).close()


def _padding(path, content, letters):
    """Whether the changed byte lies between two arrays, where it means nothing."""
    changed = path.read_bytes()
    at = next(i for i, byte in enumerate(content) if changed[i] != byte)
    return content[at] == 0 and at % 64 and not any(content[at : at + 64 - at % 64])


def test_a_broken_addition_leaves_nothing(open_index, letters):
    """Documents that stop coming with an error are not added, and no file keeps them."""
    index = open_index(["abcd"], segment_words=10)

    def documents():
        for _ in range(5):
            yield Document("secret")
        raise OSError("the source ended")

    with pytest.raises(OSError, match="ended"):
        index.add(documents())
    files = {path.name for path in index._directory.iterdir()}

    assert files == {"LOCK", "MANIFEST"} | {s.name for s in index.view.segments}
    assert [0] == index.view.live_ids()
    assert [1] == index.add([Document("x")])


def test_small_segments_are_merged(open_index, letters):
    """Many small additions do not leave many segments, and nothing is lost or doubled."""
    index = open_index()
    for number in range(70):
        index.add([Document(f"document <{number}>")])
        index.maintain()
    index.withdraw(range(0, 60, 2))
    while index.maintain():
        pass
    output = letters.symbols("document <61> document <60>")

    assert len(index.view.segments) < 8
    assert sorted([*range(1, 60, 2), *range(60, 70)]) == index.view.live_ids()
    assert [40] == [s.count for s in maximal_spans(index.view, letters.symbols("document"), 3)]
    assert [1, 1] == [s.count for s in maximal_spans(index.view, output, 10)]
    assert len(index.view.segments) + 2 == len(list(index._directory.iterdir()))


def test_a_long_stream_becomes_several_segments(open_index, letters):
    """No segment is larger than asked, and the view shows them all at once."""
    index = open_index(segment_words=100)
    index.add(Document(f"document <{number}>") for number in range(40))

    assert all(segment.words <= 100 for segment in index.view.segments)
    assert 1 == index.view.generation
    assert list(range(40)) == index.view.live_ids()


def test_adding_and_withdrawing_while_others_search(open_index, letters):
    """Searches beside a writer see every document that was not touched and never a wrong count."""
    index = open_index(["steady ground"])
    query = letters.symbols("steady ground, passing through")
    wrong, stop = [], threading.Event()

    def search():
        while not stop.is_set():
            view = index.view
            passing = sum(i > 0 for i in view.live_ids())
            spans = [(s.start, s.end, s.count) for s in maximal_spans(view, query, 7)]
            expected = [(0, 13, 1)] + ([(15, 30, passing)] if passing else [])
            if spans != expected:
                wrong.append((spans, expected))

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(25):
        ids = index.add(Document("passing through") for _ in range(4))
        index.withdraw(ids[:2])
        index.withdraw(ids[2:], erase=True)
        index.add([Document("passing through")])
        index.maintain()
    stop.set()
    for thread in threads:
        thread.join()

    assert [] == wrong


def test_withdrawals_during_a_merge_hold(open_index, letters, monkeypatch):
    """What is withdrawn while its segment is written anew is withdrawn in the new one."""
    index = open_index(["abcd", "efgh"], ["ijkl"])
    index.withdraw([0])
    write = Recipe.write

    def slow(recipe, entries):
        made = write(recipe, entries)
        index.withdraw([1])
        return made

    monkeypatch.setattr(Recipe, "write", slow)
    index.erase()

    assert [2] == index.view.live_ids()
    assert 0 == matched_lengths(index.view, letters.symbols("efgh"), 3).max()


@pytest.mark.parametrize("seed", range(6))
def test_a_killed_writer_loses_nothing(tmp_path, letters, seed):
    """After kill -9 at any moment the index opens, verified, with all that was acknowledged."""
    directory = tmp_path / "x"
    lines = []
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(directory)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )

    def read():
        lines.extend(process.stdout)

    reader = threading.Thread(target=read)
    reader.start()
    while len(lines) < 5 and process.poll() is None:
        time.sleep(0.01)
    time.sleep(random.Random(seed).uniform(0, 0.4))
    process.kill()
    process.wait()
    reader.join()
    process.stdout.close()
    added = {int(line.split()[1]) for line in lines if line.startswith("added")}
    gone = {int(line.split()[1]) for line in lines if line.startswith("withdrawn")}
    index = Index(directory, letters)
    ids = set(index.view.live_ids())
    texts = {number: index.view.document(number).text for number in ids}
    files = {path.name for path in directory.iterdir()}
    index.close()

    # The last step may be done without having been acknowledged.
    assert added - gone - ids <= {max(added) - 1}
    assert ids - added <= {max(added) + 1}
    assert not ids & gone
    assert {number: f"document <{number}>" for number in ids} == texts
    assert files == {"LOCK", "MANIFEST"} | {s.name for s in index.view.segments}


def test_tiers():
    """Eight of a tier are merged, lowest first; too large ones never; a fifth dead is purged."""
    small = {str(i): 10 for i in range(8)}
    large = {f"l{i}": FLOOR_WORDS for i in range(8)}

    assert [0, 1, 1, 2] == [tier(w) for w in (0, FLOOR_WORDS, 8 * FLOOR_WORDS - 1, 8 * FLOOR_WORDS)]
    assert list(small) == due_for_merge({**large, **small}, 1 << 20)
    assert [] == due_for_merge(large, FLOOR_WORDS)
    assert [] == due_for_merge(dict(list(small.items())[:7]), 1 << 20)
    assert ["b"] == due_for_purge({"a": 100, "b": 100}, {"a": 19, "b": 20})
