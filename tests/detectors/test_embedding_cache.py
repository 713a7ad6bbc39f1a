"""Tests of the embedding cache: what is encoded, what is kept, what is on disk."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np

from detectors.embedding_cache import EmbeddingCache


def test_only_new_texts_are_encoded(toy_encoder, tmp_path: Path) -> None:
    """Known texts come from disk, also in a later process, and order is kept."""
    path = tmp_path / "cache" / "embeddings.db"
    first = EmbeddingCache(toy_encoder, path)
    before = first.encode(["one", "two", "one"])
    first.close()
    after = EmbeddingCache(toy_encoder, path).encode(["two", "three", "one"])

    assert toy_encoder.encoded == ["one", "two", "three"]
    assert np.array_equal(before[0], before[2])
    assert np.array_equal(after[0], before[1])
    assert np.array_equal(after[2], before[0])


def test_no_texts_give_no_rows(toy_encoder, tmp_path: Path) -> None:
    """An empty batch keeps the dimension."""
    assert EmbeddingCache(toy_encoder, tmp_path / "e.db").encode([]).shape == (0, 256)


def test_file_is_private_and_holds_no_text(toy_encoder, tmp_path: Path) -> None:
    """The owner alone may read it, and the text is nowhere in it."""
    path = tmp_path / "e.db"
    cache = EmbeddingCache(toy_encoder, path)
    cache.encode(["a very secret sentence"])
    cache.close()

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"secret" not in path.read_bytes()


def test_encoders_do_not_share_entries(toy_encoder, tmp_path: Path) -> None:
    """Another encoder id is another entry."""
    path = tmp_path / "e.db"
    EmbeddingCache(toy_encoder, path).encode(["one"])
    toy_encoder.id = "another"
    EmbeddingCache(toy_encoder, path).encode(["one"])

    assert toy_encoder.encoded == ["one", "one"]


def test_keep_only_drops_the_rest(toy_encoder, tmp_path: Path) -> None:
    """What is no longer registered must be encoded again."""
    cache = EmbeddingCache(toy_encoder, tmp_path / "e.db")
    cache.encode(["one", "two", "lone \ud800"])
    cache.keep_only(["one", "never seen"])
    cache.encode(["one", "two"])

    assert toy_encoder.encoded == ["one", "two", "lone \ud800", "two"]


def test_damaged_file_is_replaced(toy_encoder, tmp_path: Path) -> None:
    """Garbage on disk costs an encoding, not a start."""
    path = tmp_path / "e.db"
    path.write_bytes(b"garbage" * 1000)

    assert EmbeddingCache(toy_encoder, path).encode(["one"]).shape == (1, 256)
