"""Which words of a vocabulary are near a given word in meaning: cosine of their embeddings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detectors.encoder import Encoder
from guard.semantic_words import Float16, VocabularyWords

Float32 = npt.NDArray[np.float32]

# The farthest that any target may ask for: the least delta less the penalties' margin.
FLOOR = 0.35
# Kept per word; beyond these a word is too common to have near-synonyms worth a list.
MAX_NEIGHBOURS = 32
_BLOCK = 256


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A word of the vocabulary; `row` is its place among `VocabularyWords.words`."""

    row: int
    similarity: float


class Meanings:
    """Neighbours of words, remembered between compilations while they are asked for.

    Attributes:
        words: the vocabulary's.
    """

    def __init__(self, words: VocabularyWords, embeddings: Float16) -> None:
        self.words = words
        # [W, dimension]; half precision would be slower to multiply.
        self._embeddings: Float32 = embeddings.astype(np.float32)
        self._found: dict[str, tuple[Neighbour, ...]] = {}

    def prepare(self, words: Iterable[str], encoder: Encoder) -> None:
        """Look up these folded words; words not asked for this time are forgotten."""
        asked = sorted(set(words))
        known = {word: self._found[word] for word in asked if word in self._found}
        fresh = [word for word in asked if word not in known]
        vectors = encoder.encode(fresh)
        for first in range(0, len(fresh), _BLOCK):
            cosines = vectors[first : first + _BLOCK] @ self._embeddings.T
            for word, row in zip(fresh[first : first + _BLOCK], cosines, strict=True):
                known[word] = self._nearest(word, row)
        self._found = known

    def near(self, word: str) -> tuple[Neighbour, ...]:
        """Neighbours of a prepared word but not the word itself, the nearest first."""
        return self._found[word]

    def _nearest(self, word: str, cosines: Float32) -> tuple[Neighbour, ...]:
        near = np.flatnonzero(cosines >= FLOOR)
        # Rounded, so that another order of summation gives the same policy.
        found = [(-round(float(cosines[row]), 3), int(row)) for row in near]
        chosen = sorted(pair for pair in found if self.words.words[pair[1]] != word)
        return tuple(Neighbour(row, -cosine) for cosine, row in chosen[:MAX_NEIGHBOURS])
