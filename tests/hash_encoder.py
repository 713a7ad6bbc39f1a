"""An encoder without a model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


class HashEncoder:
    """Unit vectors that depend on nothing but the text: equal texts are similar, others are not."""

    id, dimension, device, on_gpu = "hash-encoder", 64, "cpu", False

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Embeddings [len(texts), 64]."""
        digests = [hashlib.sha512(text.encode("utf-8", "replace")).digest() for text in texts]
        rows = [np.frombuffer(digest, np.uint8) for digest in digests]
        vectors = np.array(rows, np.float32).reshape(len(texts), self.dimension) - 127.5
        unit: npt.NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit.astype(np.float32)
