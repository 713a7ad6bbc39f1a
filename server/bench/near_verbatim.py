"""Near-verbatim leaks: words of an answer that give a fact away in another form.

The judge shares no rule with the filter except the encoder that tells synonyms, which the report
says. A fact word is a word of the registered answer that its question does not contain and that is
no function or frame word.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from detectors.encoder import Encoder
from detectors.lexicon import is_frame_word, is_function_word
from detectors.normaliser import fold

SYNONYM_COSINE = 0.7

_SHORTEST = 4
_PREFIX_SHARE = 0.7
_WORD = re.compile(r"[^\W\d_]+")
_SOUNDS = (("kh", "h"), ("ph", "f"), ("ck", "k"), ("c", "k"), ("q", "k"), ("ou", "u"), ("oo", "u"))
_MORE_SOUNDS = (("ee", "i"), ("y", "i"), ("w", "v"), ("z", "s"), ("th", "t"), ("j", "i"))


class Leak(StrEnum):
    """How a word of an answer is like a fact word; the first that holds counts."""

    EXACT = "exact"
    INFLECTION = "inflection"
    TRANSLITERATION = "transliteration"
    EDIT = "edit"
    SYNONYM = "synonym"


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, as it is asked, and the registered question and answer behind it."""

    asked: str
    registered: str
    answer: str

    @property
    def facts(self) -> set[str]:
        """The fact words."""
        said = set(telling_words(self.asked)) | set(telling_words(self.registered))
        return set(telling_words(self.answer)) - said


def telling_words(text: str) -> list[str]:
    """The folded words of a text that may carry a fact, in order."""
    words = (match.group() for match in _WORD.finditer(fold(text)))
    return [
        word
        for word in words
        if len(word) >= _SHORTEST and not is_function_word(word) and not is_frame_word(word)
    ]


def leaks(question: Question, answer: str, encoder: Encoder) -> Mapping[Leak, int]:
    """How many distinct words of an answer give a fact away, by the way they do."""
    said = set(telling_words(question.asked))
    words = sorted(set(telling_words(answer)) - said)
    facts = sorted(question.facts)
    counts = dict.fromkeys(Leak, 0)
    far = []
    for word in words:
        kinds = [kind for fact in facts if (kind := likeness(word, fact)) is not None]
        if kinds:
            counts[min(kinds, key=list(Leak).index)] += 1
        else:
            far.append(word)
    counts[Leak.SYNONYM] = _synonyms(far, facts, encoder)
    return counts


def likeness(word: str, fact: str) -> Leak | None:
    """How two folded words are alike in letters; None if they are not."""
    if word == fact:
        return Leak.EXACT
    longer = max(len(word), len(fact))
    common = next((i for i, (a, b) in enumerate(zip(word, fact, strict=False)) if a != b), None)
    shared = min(len(word), len(fact)) if common is None else common
    if shared >= max(_SHORTEST, _PREFIX_SHARE * longer):
        return Leak.INFLECTION
    if _sound(word) == _sound(fact):
        return Leak.TRANSLITERATION
    if edit_distance(word, fact) <= longer // 5:
        return Leak.EDIT
    return None


def edit_distance(left: str, right: str) -> int:
    """Levenshtein's."""
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        previous, row = row, [i]
        for j, b in enumerate(right, 1):
            row.append(min(previous[j] + 1, row[-1] + 1, previous[j - 1] + (a != b)))
    return row[-1]


def _sound(word: str) -> str:
    for pattern, sound in (*_SOUNDS, *_MORE_SOUNDS):
        word = word.replace(pattern, sound)
    return re.sub(r"(.)\1", r"\1", word)


def _synonyms(words: Sequence[str], facts: Sequence[str], encoder: Encoder) -> int:
    if not words or not facts:
        return 0
    cosines = encoder.encode(words) @ encoder.encode(facts).T
    return int(np.count_nonzero(cosines.max(axis=1) >= SYNONYM_COSINE))
