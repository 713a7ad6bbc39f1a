"""The semantic filter, compiled: what else a unit may not say because it says nearly the same.

The soft match of GUARD (arXiv 2505.13312) without an encoder in the decoding loop. Beside each
unit's own phrases it yields

* forms that are vetoed: words nearer in meaning than delta, inflections, other romanisations of
  names, and phrases whose last word is cut to its stem. They become phrases of the automaton, so
  they hold in any tokenisation and case and cost a step nothing of their own;
* penalties on words a little farther away (`guard.semantic_penalties`).

Ordinary words stay sayable. Meaning is asked for single words only: every word of a longer phrase
has near-synonyms, and most of them are common. A longer phrase gives forms that begin with all but
its last word, which a text must have said before anything is vetoed. For a whole target a form must
be rare; for an item, which is on only while it is matched, it must be neither a function nor a
frame word nor in the item's prompt. Forms are not part of the output shield: they make an answer
choose other words, they do not end it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from detectors.encoder import Encoder
from detectors.extraction import ExtractedPhrase, Extraction, Reason
from detectors.lexicon import is_frame_word, is_function_word, zipf
from detectors.normaliser import fold
from detectors.spans import WORD
from detectors.targets import ForgetTarget, Phrase
from guard.patterns import Patterns, patterns_of
from guard.semantic_forms import cut, inflections, romanisations
from guard.semantic_meanings import Meanings
from guard.semantic_penalties import Penalties

DEFAULT_DELTA = 0.75
# Words up to this much farther away than delta are penalised.
MARGIN = 0.15
# Logits that a word just short of delta loses; one at the margin's end loses nothing.
MAX_PENALTY = 4.0

_WORDY = frozenset([Reason.OPERATOR, Reason.TITLE, Reason.RARE_WORD, Reason.ANSWER_WORD])
_NAMES = frozenset([Reason.ALIAS, Reason.NAME])
_MAYBE_NAMES = frozenset([Reason.OPERATOR, Reason.RARE_WORD])
_SHORTEST = 4
_SAME_STEM = 0.7
# Below this zipf frequency an encoder takes a word for its pieces.
_KNOWN = 2.5
# Above this zipf frequency a word is too ordinary to be vetoed for a whole target.
_RARE = 4.0
_MAX_REPORTED = 1_000


class Likeness(StrEnum):
    """Why a form counts as nearly the same as its phrase."""

    MEANING = "meaning"
    INFLECTION = "inflection"
    ROMANISATION = "romanisation"
    BEGINNING = "beginning"


@dataclass(frozen=True, slots=True)
class Form:
    """A vetoed form of a phrase, both folded."""

    text: str
    phrase: str
    likeness: Likeness


@dataclass(frozen=True, slots=True)
class Expansion:
    """Forms and penalties per unit, in the order of `guard.units.Units`."""

    forms: tuple[tuple[Form, ...], ...]
    penalties: Penalties

    @classmethod
    def none(cls, num_units: int) -> Expansion:
        """Nothing for any unit."""
        return cls(((),) * num_units, Penalties.none(num_units))

    def with_units(self, more: int) -> Expansion:
        """With nothing for so many units behind the others."""
        return Expansion(self.forms + ((),) * more, self.penalties.with_units(more))

    def report(self, target: int, items: range, delta: float) -> dict[str, Any]:
        """What the operator of one target is told; forget text, for administrators only."""
        units = [*self.forms[target : target + 1], *(self.forms[item] for item in items)]
        forms = dict.fromkeys((f.text, f.phrase, f.likeness) for unit in units for f in unit)
        shown = [
            {"text": text, "of": phrase, "reason": str(likeness)}
            for text, phrase, likeness in list(forms)[:_MAX_REPORTED]
        ]
        return {"delta": delta, "num_forms": len(forms), "forms": shown}


def delta_of(target: ForgetTarget) -> float:
    """The cosine from which on a word is vetoed for this target; 1 turns the filter off for it."""
    return DEFAULT_DELTA if target.delta is None else target.delta


def patterns_of_forms(forms: Sequence[Form]) -> Patterns:
    """How the automaton reads each form: a beginning counts however its last word goes on."""
    beginnings = (form.likeness is Likeness.BEGINNING for form in forms)
    found = patterns_of([Phrase(form.text) for form in forms])
    return found.also_within_words(np.fromiter(beginnings, np.bool_, len(forms)))


def expand(
    targets: Sequence[ForgetTarget],
    extractions: Sequence[Extraction],
    meanings: Meanings,
    encoder: Encoder,
) -> Expansion:
    """Forms and penalties of all units of a policy. Deterministic."""
    units = list(_units(targets, extractions))
    asked = (_key(p.text) for unit in units for p in unit.phrases if _has_meaning(p))
    meanings.prepare(asked, encoder)
    forms = tuple(tuple(_unique(unit, _forms(unit, meanings))) for unit in units)
    return Expansion(forms, Penalties.build([_penalties(unit, meanings) for unit in units]))


@dataclass(frozen=True, slots=True)
class _Unit:
    """One unit's phrases, and what must stay sayable beside them.

    `kept` are folded words, `is_target` says that the unit is on for a whole target.
    """

    phrases: tuple[ExtractedPhrase, ...]
    kept: frozenset[str]
    delta: float
    is_target: bool

    def may_veto(self, word: str) -> bool:
        """Whether a folded word may be taken away while this unit is on."""
        if word in self.kept or is_function_word(word) or is_frame_word(word):
            return False
        return not self.is_target or zipf(word) < _RARE


def _units(targets: Sequence[ForgetTarget], extractions: Sequence[Extraction]) -> Iterator[_Unit]:
    pairs = list(zip(targets, extractions, strict=True))
    struck = [_words(target.excluded_phrases) for target in targets]
    for (target, extraction), words in zip(pairs, struck, strict=True):
        kept = words | _words(target.retain_examples)
        delta = delta_of(target)
        yield _Unit(extraction.target if delta < 1 else (), kept, delta, True)
    for (target, extraction), words in zip(pairs, struck, strict=True):
        delta = delta_of(target)
        for example, phrases in zip(target.examples, extraction.items, strict=True):
            said = _words([example.prompt])
            kept = words | said | {form for word in said for form in inflections(word)}
            yield _Unit(phrases if delta < 1 else (), kept, delta, False)


def _forms(unit: _Unit, meanings: Meanings) -> Iterator[Form]:
    for phrase in unit.phrases:
        key = _key(phrase.text)
        if _is_name(phrase):
            for name in romanisations(key):
                yield Form(_key(name), key, Likeness.ROMANISATION)
        elif phrase.reason in _WORDY:
            for word in sorted(filter(unit.may_veto, inflections(key))):
                yield Form(word, key, Likeness.INFLECTION)
        if _has_meaning(phrase):
            for neighbour in meanings.near(key):
                word = meanings.words.words[neighbour.row]
                near = neighbour.similarity >= unit.delta
                akin = neighbour.similarity >= unit.delta - MARGIN and _same_stem(word, key)
                if (near or akin) and unit.may_veto(word):
                    likeness = Likeness.MEANING if near else Likeness.INFLECTION
                    yield Form(word, key, likeness)
        if phrase.reason in _WORDY | _NAMES and (stem := cut(key)) is not None:
            yield Form(stem, key, Likeness.BEGINNING)


def _penalties(unit: _Unit, meanings: Meanings) -> dict[int, float]:
    found: dict[int, float] = {}
    for key in {_key(p.text) for p in unit.phrases if _has_meaning(p)}:
        for neighbour in meanings.near(key):
            share = (neighbour.similarity - unit.delta + MARGIN) / MARGIN
            if not 0 < share < 1 or not unit.may_veto(meanings.words.words[neighbour.row]):
                continue
            for token in meanings.words.tokens(neighbour.row):
                found[token] = max(found.get(token, 0.0), MAX_PENALTY * share)
    return found


def _unique(unit: _Unit, forms: Iterator[Form]) -> Iterator[Form]:
    """Each form once, and none that is a phrase of the unit itself."""
    seen = {_key(phrase.text) for phrase in unit.phrases}
    for form in forms:
        if form.text not in seen:
            seen.add(form.text)
            yield form


def _has_meaning(phrase: ExtractedPhrase) -> bool:
    """Whether an encoder can say what is near: single known words but no names or numbers."""
    key = _key(phrase.text)
    single = phrase.reason in _WORDY and len(key) >= _SHORTEST and key.isalpha()
    return single and zipf(key) >= _KNOWN


def _is_name(phrase: ExtractedPhrase) -> bool:
    """Whether a phrase is a name, or may be one by its capitals."""
    if phrase.reason in _MAYBE_NAMES:
        return all(word[0].isupper() for word in phrase.text.split())
    return phrase.reason in _NAMES


def _same_stem(left: str, right: str) -> bool:
    length = max(_SHORTEST, round(_SAME_STEM * max(len(left), len(right))))
    return left[:length] == right[:length]


def _words(texts: Sequence[str]) -> frozenset[str]:
    return frozenset(match.group() for text in texts for match in WORD.finditer(fold(text)))


def _key(text: str) -> str:
    return fold(text).strip()


def expansions_by_target(
    expansion: Expansion, targets: Sequence[ForgetTarget]
) -> Mapping[str, dict[str, Any]]:
    """Per target id what its operator is told."""
    found, first = {}, len(targets)
    for number, target in enumerate(targets):
        items = range(first, first + len(target.examples))
        found[target.id] = expansion.report(number, items, delta_of(target))
        first += len(target.examples)
    return found
