"""Token paths of a model that does its best to say what is forbidden, judged by their text.

Each path wants to write a sentence with a phrase in some spelling, cut into tokens at random. Where
the filter forbids the token it wants, it takes any other and goes on. The oracle knows no tokens:
it decodes the bytes and searches the folded text for every active phrase.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import ahocorasick
import numpy as np
import numpy.typing as npt

from detectors.normaliser import at_border, fold
from detectors.targets import Phrase
from guard.automaton import build_tables
from guard.patterns import index_phrases
from guard.positions import Positions
from guard.token_filter import NO_TOKEN, TokenFilter
from guard.units import Units
from guard.vocabulary import Vocabulary
from server.bench.spellings import Segmenter, common_words, random_spelling
from server.bench.vocabularies import RealVocabulary

CHUNK = 2048
_LONGEST = 40

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PathCount:
    """What sampling found: paths walked, tokens that were wanted and refused, texts with a phrase.

    `unhindered` is how many of the texts would have had one without the filter: it shows that the
    oracle sees what it looks for.
    """

    paths: int
    refused: int
    emissions: int
    unhindered: int

    def __add__(self, other: PathCount) -> PathCount:
        return PathCount(
            self.paths + other.paths,
            self.refused + other.refused,
            self.emissions + other.emissions,
            self.unhindered + other.unhindered,
        )


class TextOracle:
    """Says of a text whether it has one of the phrases, by definition: folded, between borders."""

    def __init__(self, phrases: Sequence[Phrase]) -> None:
        self._words = ahocorasick.Automaton()
        for phrase in phrases:
            wanted = fold(phrase.text).strip()
            self._words.add_word(wanted, (wanted, phrase.whole_word))
        self._words.make_automaton()

    def finds(self, raw: bytes) -> bool:
        """Whether the text of these bytes has a phrase; its last word may go on."""
        text = fold(raw.decode(errors="replace"))
        for end, (wanted, whole_word) in self._words.iter(text):
            start = end + 1 - len(wanted)
            if not whole_word or (
                at_border(text[start - 1 : start], wanted[0])
                and at_border(wanted[-1], text[end + 1 : end + 2])
            ):
                return True
        return False


def make_filter(vocabulary: Vocabulary, phrases: Sequence[Phrase]) -> TokenFilter:
    """A filter with one target unit that has all phrases."""
    patterns, ids = index_phrases(phrases)
    return TokenFilter(build_tables(patterns, vocabulary), Units.build([ids], []), vocabulary)


def sample_paths(
    real: RealVocabulary,
    phrases: Sequence[str],
    count: int,
    seed: int,
    advance: Callable[[int], None],
) -> PathCount:
    """Walk at least `count` paths over one vocabulary; `advance` is told how many are done."""
    rng = random.Random(seed)  # noqa: S311
    wanted = [Phrase(text) for text in phrases]
    walker = _Walker(real, make_filter(Vocabulary(real.tokens), wanted), seed)
    oracle, segmenter = TextOracle(wanted), Segmenter(real.tokens)
    total = PathCount(0, 0, 0, 0)
    while total.paths < count:
        plans = [_plan(phrases, segmenter, rng) for _ in range(CHUNK)]
        paths, refused = walker.walk(plans)
        emissions = sum(oracle.finds(walker.text(path)) for path in paths)
        unhindered = sum(oracle.finds(walker.text(plan)) for plan in plans)
        total += PathCount(CHUNK, refused, emissions, unhindered)
        advance(CHUNK)
    return total


def _plan(phrases: Sequence[str], segmenter: Segmenter, rng: random.Random) -> list[int]:
    words = common_words()
    text = random_spelling(rng.choice(phrases), rng)
    if rng.random() < 0.5:
        text = f"{rng.choice(words)} {text}"
    return segmenter.segment(f"{text} {rng.choice(words)}".encode(), rng)[:_LONGEST]


class _Walker:
    """Walks a chunk of paths side by side."""

    def __init__(self, real: RealVocabulary, token_filter: TokenFilter, seed: int) -> None:
        self._tokens = [raw or b"" for raw in real.tokens]
        self._filter = token_filter
        self._active = token_filter.sets.acquire((0,), ()).index
        self._random = np.random.default_rng(seed)

    def text(self, path: Sequence[int]) -> bytes:
        """The bytes of a path."""
        return b"".join(map(self._tokens.__getitem__, path))

    def walk(self, plans: Sequence[Sequence[int]]) -> tuple[list[list[int]], int]:
        """The paths that are taken instead of the planned ones, and how often one was refused."""
        wanted = np.full((len(plans), _LONGEST), NO_TOKEN, np.int64)
        for row, plan in zip(wanted, plans, strict=True):
            row[: len(plan)] = plan
        positions = Positions(len(plans))
        start = self._filter.seed([], [])
        slots = np.array([positions.take(start, self._active) for _ in plans], np.int64)
        rows, refused = np.arange(len(plans)), 0
        last = np.full(len(plans), NO_TOKEN, np.int64)
        for step in range(max(map(len, plans))):
            width = len(self._tokens)
            found = self._filter.step(positions, slots, last, rows, width)
            forbidden = np.unique(found.indices)
            chosen = wanted[:, step]
            refused += self._choose(chosen, forbidden)
            last = chosen.copy()
        return [path[path >= 0].tolist() for path in wanted], refused

    def _choose(self, chosen: Int64, forbidden: Int64) -> int:
        """Replace the forbidden choices, in place, by others until none is; gives their number."""
        width, first = len(self._tokens), -1
        while True:
            flat = np.flatnonzero(chosen >= 0) * width + chosen[chosen >= 0]
            bad = flat[_among(flat, forbidden)] // width
            if first < 0:
                first = len(bad)
            if not len(bad):
                return first
            chosen[bad] = self._random.integers(0, width, len(bad))


def _among(values: Int64, ordered: Int64) -> npt.NDArray[np.bool_]:
    place = np.searchsorted(ordered, values)
    place[place == len(ordered)] = 0
    return ordered[place] == values if len(ordered) else np.zeros(len(values), np.bool_)
