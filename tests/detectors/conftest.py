"""Encoders for the detectors' tests: a toy one of word hashes, and the real default model."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import numpy as np
import pytest

from detectors.encoder import SentenceEncoder, load_encoder


class BagOfWords:
    """Unit vectors of hashed words: shared words give similarity, nothing is learned."""

    id = "bag-of-words"
    dimension = 256

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings [len(texts), 256]."""
        self.encoded += texts
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in re.findall(r"\w+", text.lower()) or [""]:
                digest = hashlib.sha256(word.encode("utf-8", "surrogatepass")).digest()
                vectors[row, digest[0]] += 1 if digest[1] % 2 else -1
            vectors[row, 0] += 1e-3
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def toy_encoder() -> BagOfWords:
    """A fresh toy encoder that records what it encoded."""
    return BagOfWords()


@pytest.fixture(scope="session")
def encoder() -> SentenceEncoder:
    """The default model, from the packaged copy where there is no other."""
    return load_encoder(device="cpu")
