"""Stored responses: how many are kept, of each key and of all."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from server.response_store import ResponseStore, StoredResponse


def test_the_store_is_bounded_over_all_keys() -> None:
    """The oldest of all leave, and owners that have nothing left."""
    store = ResponseStore(100, 1000)
    for owner in range(1000):
        assert store.put(str(owner), "r", StoredResponse(b"x" * 50, b"y" * 40))
    kept = [store.get(str(owner), "r") is not None for owner in range(1000)]

    assert kept == [False] * 989 + [True] * 11
    assert (store.num_bytes, store.num_owners) == (990, 11)
    assert not ResponseStore(100, 50).put("a", "r", StoredResponse(b"x" * 51, b""))
    assert not ResponseStore(100, 0).is_on


@given(
    puts=st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("123"), st.integers(0, 60))),
    most=st.integers(0, 50),
    total=st.integers(0, 120),
)
def test_the_store_counts_what_it_holds(
    puts: list[tuple[str, str, int]], most: int, total: int
) -> None:
    """The limits hold after each put, and what came last is there whenever it can be."""
    store = ResponseStore(most, total)
    for owner, id_, size in puts:
        assert store.put(owner, id_, StoredResponse(b"", b"x" * size)) == store.takes(size)
        assert (store.get(owner, id_) is not None) == (size <= min(most, total))
        held = {
            o: [s.num_bytes for i in "123" if (s := store.get(o, i)) is not None] for o in "abcd"
        }
        assert all(sum(sizes) <= most for sizes in held.values())
        assert sum(map(sum, held.values())) == store.num_bytes <= total
        assert store.num_owners == sum(map(bool, held.values()))
