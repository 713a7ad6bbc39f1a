"""Embeddings kept on disk by content, so that compiling again encodes only what is new.

The file holds hashes and vectors, never a text; vectors still tell much about their texts, so
the file is readable by its owner only and `keep_only` removes what is no longer registered.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from detectors.encoder import Encoder

_SCHEMA = "CREATE TABLE IF NOT EXISTS embeddings (key BLOB PRIMARY KEY, vector BLOB NOT NULL)"


class EmbeddingCache:
    """An `Encoder` that remembers. Thread-safe; one process per file.

    A damaged file is thrown away and filled again: it holds nothing that cannot be recomputed.
    """

    def __init__(self, encoder: Encoder, path: Path) -> None:
        self._encoder = encoder
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._database = _open(path)

    @property
    def id(self) -> str:
        """Identity of the wrapped encoder."""
        return self._encoder.id

    @property
    def dimension(self) -> int:
        """Length of an embedding."""
        return self._encoder.dimension

    @property
    def unsaved(self) -> Encoder:
        """The same, but new embeddings are not kept: for texts that are not registered."""
        return _Unsaved(self)

    def encode(self, texts: Sequence[str], *, keep: bool = True) -> npt.NDArray[np.float32]:
        """Embeddings [len(texts), dimension]; each distinct new text is encoded once."""
        keys = [self._key(text) for text in texts]
        known = self._read(set(keys))
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        if missing:
            fresh = self._encoder.encode(list(missing.values()))
            known.update(zip(missing, fresh, strict=True))
            if keep:
                self._write({key: known[key] for key in missing})
        if not keys:
            return np.zeros((0, self.dimension), dtype=np.float32)
        return np.stack([known[key] for key in keys])

    def keep_only(self, texts: Iterable[str]) -> None:
        """Drop every embedding, of any encoder, that is not of one of these texts."""
        keep = [(self._key(text),) for text in texts]
        with self._lock, self._database as database:
            database.execute("CREATE TEMP TABLE keep (key BLOB PRIMARY KEY)")
            database.executemany("INSERT OR IGNORE INTO keep VALUES (?)", keep)
            database.execute("DELETE FROM embeddings WHERE key NOT IN (SELECT key FROM keep)")
            database.execute("DROP TABLE keep")

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    def _key(self, text: str) -> bytes:
        content = f"{self.id}\0{text}".encode("utf-8", "surrogatepass")
        return hashlib.sha256(content).digest()

    def _read(self, keys: set[bytes]) -> dict[bytes, npt.NDArray[np.float32]]:
        found: dict[bytes, npt.NDArray[np.float32]] = {}
        with self._lock:
            for key in keys:
                row = self._database.execute(
                    "SELECT vector FROM embeddings WHERE key = ?", (key,)
                ).fetchone()
                if row is not None and len(row[0]) == 4 * self.dimension:
                    found[key] = np.frombuffer(row[0], dtype="<f4").astype(np.float32)
        return found

    def _write(self, vectors: dict[bytes, npt.NDArray[np.float32]]) -> None:
        rows = [(key, vector.astype("<f4").tobytes()) for key, vector in vectors.items()]
        with self._lock, self._database as database:
            database.executemany("INSERT OR REPLACE INTO embeddings VALUES (?, ?)", rows)


class _Unsaved:
    """An encoder that reads a cache and does not write it."""

    def __init__(self, cache: EmbeddingCache) -> None:
        self._cache = cache
        self.id, self.dimension = cache.id, cache.dimension

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return self._cache.encode(texts, keep=False)


def _open(path: Path) -> sqlite3.Connection:
    path.touch(mode=0o600)
    path.chmod(0o600)
    database = sqlite3.connect(path, check_same_thread=False)
    try:
        # A lost write costs one encoding, so speed is worth more than durability here.
        database.execute("PRAGMA synchronous = OFF")
        database.execute("PRAGMA secure_delete = ON")
        database.execute(_SCHEMA)
        database.execute("SELECT count(*) FROM embeddings").fetchone()
    except sqlite3.DatabaseError:
        database.close()
        path.unlink()
        return _open(path)
    return database
