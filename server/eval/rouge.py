"""Measures on words: ROUGE-L recall, repetition, and how many word pairs anybody ever wrote."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

_WORD = re.compile(r"[a-z0-9]+")


def words(text: str) -> list[str]:
    """The tokens of the `rouge_score` package, without its stemmer."""
    return _WORD.findall(text.lower())


def rouge_l_recall(reference: str, candidate: str) -> float:
    """Longest common subsequence of words over the reference's words (Lin 2004)."""
    wanted, given = words(reference), words(candidate)
    lengths = [0] * (len(given) + 1)
    for word in wanted:
        diagonal = 0
        for column, other in enumerate(given, 1):
            above = lengths[column]
            lengths[column] = diagonal + 1 if word == other else max(above, lengths[column - 1])
            diagonal = above
    return lengths[-1] / max(1, len(wanted))


def repetition(text: str) -> float:
    """Share of an answer's runs of three words that it has said before; 0 where there is none."""
    listed = words(text)
    runs = list(zip(listed, listed[1:], listed[2:], strict=False))
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


class Bigrams:
    """The pairs of neighbouring words in some texts."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._known = {pair for text in texts for pair in _pairs(words(text))}

    def share(self, text: str) -> float:
        """Share of an answer's word pairs that the texts have; 1 where it has none.

        A text that was read by the model has 1, words in random order nearly 0.
        """
        pairs = _pairs(words(text))
        return sum(pair in self._known for pair in pairs) / len(pairs) if pairs else 1.0


def _pairs(listed: Sequence[str]) -> list[tuple[str, str]]:
    return list(pairwise(listed))
