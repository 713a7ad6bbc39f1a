"""What one API process remembers of texts it has judged: embeddings and decisions, by content.

Both memories are bounded and keyed by hashes; the least recently used goes first. They hold no
text. An embedding still tells much about its text, so neither ever leaves the process.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from detectors.encoder import Encoder

Value = TypeVar("Value")
Vector = npt.NDArray[np.float32]


class Memory(Generic[Value]):
    """A bounded mapping from hashes to values. Thread-safe."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: OrderedDict[bytes, Value] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: bytes) -> Value | None:
        """The value, if it is still known."""
        with self._lock:
            value = self._values.get(key)
            if value is not None:
                self._values.move_to_end(key)
            return value

    def put(self, key: bytes, value: Value) -> None:
        """Remember a value."""
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > self._size:
                self._values.popitem(last=False)


class KnownWindows:
    """An encoder that remembers: windows of earlier turns and repeated prompts cost nothing."""

    def __init__(self, encoder: Encoder, size: int) -> None:
        self._encoder = encoder
        self._known: Memory[Vector] = Memory(size)

    def encode(self, windows: Sequence[str]) -> Vector:
        """Embeddings [len(windows), dimension] of distinct windows."""
        keys = [content_key([window]) for window in windows]
        known = {key: vector for key in keys if (vector := self._known.get(key)) is not None}
        missing = [place for place, key in enumerate(keys) if key not in known]
        if missing:
            fresh = self._encoder.encode([windows[place] for place in missing])
            for place, vector in zip(missing, fresh, strict=True):
                known[keys[place]] = vector
                self._known.put(keys[place], vector)
        if not keys:
            return np.zeros((0, self._encoder.dimension), np.float32)
        return np.stack([known[key] for key in keys])


def content_key(texts: Sequence[str], *about: str) -> bytes:
    """A hash of texts in order and of what else matters; 16 bytes."""
    digest = hashlib.blake2b(digest_size=16)
    for text in (*about, *texts):
        octets = text.encode("utf-8", "surrogatepass")
        # With its length: ["ab", "c"] is not ["a", "bc"].
        digest.update(len(octets).to_bytes(8, "big") + octets)
    return digest.digest()
