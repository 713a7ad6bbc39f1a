"""Tests of the search for near rows, on the CPU and as on a device, against the plain product."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from detectors import device_similarity, similarity
from detectors.device_similarity import DeviceRows
from detectors.similarity import NAMED_FLOOR, Hits, HostRows, Query, best_cosine_per_text

DIMENSION = 5


def unit(rng: np.random.Generator, count: int, dimension: int = DIMENSION) -> np.ndarray:
    """Random unit vectors."""
    rows = rng.normal(size=(count, dimension)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def registered(rng: np.random.Generator, count: int) -> tuple[np.ndarray, ...]:
    """Rows with bounds, lower ones, targets and items; every fourth row belongs to no item."""
    items = np.where(np.arange(count) % 4 == 0, -1, np.arange(count)).astype(np.int32)
    bounds = rng.uniform(0.2, 0.9, count).astype(np.float32)
    lower = (bounds - rng.uniform(0.0, 0.3, count)).astype(np.float32)
    return unit(rng, count), bounds, lower, rng.integers(0, 6, count).astype(np.int32), items


def searches(*rows: np.ndarray) -> list[HostRows | DeviceRows]:
    """Both ways to search."""
    return [HostRows(*rows), DeviceRows(*rows, device="cpu")]


@pytest.fixture(params=[1 << 20, 64], ids=["one block", "many blocks"])
def cells(request, monkeypatch) -> None:
    """The size of a block is no matter of the result."""
    for module in (similarity, device_similarity):
        monkeypatch.setattr(module, "_PRODUCT_CELLS", request.param)
        monkeypatch.setattr(module, "_FEWEST_ROWS", 3)


@pytest.mark.parametrize("sizes", [[1], [3, 0, 1], [1, 1, 1, 1], [0], [150, 2]])
@pytest.mark.usefixtures("cells")
def test_hits_are_those_of_the_plain_product(sizes: list[int]) -> None:
    """Every row whose greatest cosine over a conversation's windows reaches its bound, no other."""
    rng = np.random.default_rng(len(sizes))
    rows, bounds, lower, targets, items = registered(rng, 41)
    queries = [
        Query(unit(rng, size), frozenset({2, 5} if place == 0 else ()), place in (0, 2))
        for place, size in enumerate(sizes)
    ]
    for search in searches(rows, bounds, lower, targets, items):
        for query, hits in zip(queries, search.find(queries), strict=True):
            best = (query.windows @ rows.T).max(axis=0, initial=-1)
            own = np.isin(targets, list(query.named)) & (items >= 0)
            least = lower if query.described else bounds
            wanted = np.flatnonzero((best >= least) | (own & (best >= NAMED_FLOOR)))

            assert hits.rows.tolist() == wanted.tolist()
            assert np.allclose(hits.cosines, best[wanted], atol=1e-6)


def test_no_rows_and_no_conversations_are_no_hits() -> None:
    """An empty registry has nothing to be near to."""
    none = (np.zeros((0, 3), "f4"), *[np.zeros(0, "f4")] * 2, *[np.zeros(0, "i4")] * 2)
    for search in searches(*none):
        assert search.find([]) == []
        assert [len(h.rows) for h in search.find([Query(np.eye(2, 3, dtype=np.float32))])] == [0]


def test_memory_does_not_grow_with_the_rows() -> None:
    """64 windows against 200,000 rows: their product would be 51 MB, two blocks are 16."""
    rng = np.random.default_rng(0)
    rows = unit(rng, 200_000)
    bounds = [np.full(len(rows), 2.0, "f4")] * 2
    search = HostRows(rows, *bounds, *[np.zeros(len(rows), "i4")] * 2)
    queries = [Query(unit(rng, 1)) for _ in range(64)]
    tracemalloc.start()
    search.find(queries)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 20e6


def test_rows_may_be_mapped_read_only(tmp_path) -> None:
    """As they come from a snapshot."""
    rng = np.random.default_rng(1)
    rows, *rest = registered(rng, 20)
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    for search in searches(mapped, *rest):
        assert 3 in search.find([Query(rows[3:4])])[0].rows


def test_parts_of_a_conversation_are_merged() -> None:
    """Each row once, with its greater cosine, in order."""
    one = Hits.of(np.array([1, 4]), np.array([0.5, 0.9], np.float32))
    two = Hits.of(np.array([0, 1, 4]), np.array([0.2, 0.6, 0.3], np.float32))
    merged = one.merged(two)

    assert merged.rows.tolist() == [0, 1, 4]
    assert merged.cosines.tolist() == pytest.approx([0.2, 0.6, 0.9])
    assert one.merged(Hits.none()) == one == Hits.none().merged(one)


@pytest.mark.parametrize("windows", [0, 1, 64, 150])
@pytest.mark.usefixtures("cells")
def test_blocks_give_what_one_product_gives(windows: int) -> None:
    """Working in blocks changes nothing."""
    rng = np.random.default_rng(0)
    rows, texts = unit(rng, 7), unit(rng, windows)
    owners = np.sort(rng.integers(0, 9, windows)).astype(np.int32)
    product = texts @ rows.T
    per_text = [product[owners == o].max(initial=-1) for o in range(owners.max(initial=-1) + 1)]

    assert np.allclose(best_cosine_per_text(texts, owners, rows), per_text, atol=1e-6)


def test_no_rows_are_no_evidence() -> None:
    """Without rows every text is as far as can be."""
    owners = np.array([0, 2], dtype=np.int32)
    found = best_cosine_per_text(np.eye(2, 3, dtype=np.float32), owners, np.zeros((0, 3), "f4"))

    assert found.tolist() == [-1, -1, -1]
