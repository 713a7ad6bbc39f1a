"""Exact evidence: a target's alias occurs in a text, however it is spelled or disguised."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

import ahocorasick

from detectors.disguises import readings, spelled_runs, spelled_together
from detectors.lexicon import is_function_word, zipf
from detectors.normaliser import at_border, fold
from detectors.sounds import foreign_sounds, name_sounds
from detectors.turns import name_joins

# A shorter alias would name its target in almost every text.
MIN_ALIAS_CHARACTERS = 2
# Two words written as one are an alias from this length on; shorter ones are words of their own.
MIN_GLUED_CHARACTERS = 7

# Inside and after the words of a name punctuation is optional: "J. K.", "J.K.", "Yun-Hwa".
_GAPS = re.compile(r"(?<=[^\W_])[-_.·](?=[^\W_])")
_DROPPED = re.compile(r"(?<=\b\w)\.(?= )|'(?!s\b)")
_INITIALS = re.compile(r"\b(\w)\b (?=\w\b)")
_ARTICLE = re.compile(r"^(?:the|an?) ")
_RARE_NAME = 4.0
_TYPED = {ord(char): fold(char) + "e" for char in "äöüø"} | {ord("å"): "aa"}
_WORD = re.compile(r"[^\W_]+")
# Bounded, or a run of "A-A-A-…" would be read from each of its letters to its end.
_CAPITAL = "[A-ZÀ-ÖØ-ÞĀ-Ž][\\w'’.-]{0,40}"
_LONG_NAME = re.compile(rf"{_CAPITAL}(?:[\"“”'‘’()]{{0,2}} [\"“”'‘’()]{{0,2}}{_CAPITAL}){{2,}}")


class PhraseIndex:
    """Finds which of many whole-word phrases occur in a text, in time linear in the text."""

    def __init__(self, phrases: Iterable[str]) -> None:
        self._automaton = ahocorasick.Automaton()
        for number, phrase in enumerate(phrases):
            folded = fold(phrase).strip()
            if folded:
                owners = self._automaton.get(folded, (folded, ()))[1]
                self._automaton.add_word(folded, (folded, (*owners, number)))
        self._empty = len(self._automaton) == 0
        if not self._empty:
            self._automaton.make_automaton()

    def find(self, text: str, *, borders: bool = True) -> set[int]:
        """Numbers of the phrases that occur in the text; without `borders`, inside words too."""
        if self._empty:
            return set()
        folded = fold(text)
        found: set[int] = set()
        for last, (phrase, numbers) in self._automaton.iter(folded):
            start, end = last + 1 - len(phrase), last + 1
            before, after = folded[max(start - 1, 0) : start], folded[end : end + 1]
            if not borders or (at_border(before, phrase[0]) and at_border(phrase[-1], after)):
                found.update(numbers)
        return found


class AliasMatcher:
    """Which targets are named in a conversation: as registered, or disguised.

    An alias matches folded (`detectors.normaliser`); with its optional punctuation left out; with
    up to two more names inside ("Ada King Lovelace"); written as one word; in any of
    `disguises.readings`; by its sound in Cyrillic or Greek letters; and split over turns.
    """

    def __init__(self, aliases: Sequence[tuple[str, int]]) -> None:
        """`aliases` are pairs of an alias and its target's index."""
        usable = [pair for pair in aliases if len(fold(pair[0]).strip()) >= MIN_ALIAS_CHARACTERS]
        spelled = [(form, target) for alias, target in usable for form in spellings(alias)]
        glued = [(_glued(alias), target) for alias, target in usable]
        glued = [pair for pair in glued if len(pair[0]) >= MIN_GLUED_CHARACTERS]
        sounds = [(name_sounds(alias) or "", target) for alias, target in usable]
        self._names = _Owned([*spelled, *glued])
        self._glued = _Owned(glued)
        self._sounds = _Owned(sounds)
        self._empty = not usable

    def targets(self, texts: Sequence[str]) -> set[int]:
        """Indices of the targets with an alias in one of the texts, or across them."""
        if self._empty:
            return set()
        found: set[int] = set()
        for text in texts:
            found |= self._named(text)
            for reading in readings(text):
                found |= self._names.find(_unpunctuated(reading))
            found |= self._glued.find(spelled_runs(text), borders=False)
        for joined in name_joins(texts):
            found |= self._names.find(_unpunctuated(spelled_together(joined)))
        return found

    def _named(self, text: str) -> set[int]:
        return (
            self._names.find(text)
            | self._names.find(_unpunctuated(text))
            | self._names.find("\n".join(_without_middle_names(text)))
            | self._sounds.find(foreign_sounds(text))
        )


class _Owned:
    """A phrase index whose phrases belong to targets."""

    def __init__(self, phrases: Sequence[tuple[str, int]]) -> None:
        self._owners = [target for _, target in phrases]
        self._index = PhraseIndex(phrase for phrase, _ in phrases)

    def find(self, text: str, *, borders: bool = True) -> set[int]:
        return {self._owners[number] for number in self._index.find(text, borders=borders)}


def spellings(alias: str) -> list[str]:
    """The alias, without its optional punctuation, and with its initials written together.

    Before a comma stands the name, if it has two words: "Prince Otto, Duke of Marden". Umlauts and
    the like are two letters where a keyboard lacks them: "Jörg Møller", "Joerg Moeller".
    """
    bare = _unpunctuated(alias).strip().rstrip(".")
    name = bare.partition(",")[0].strip()
    forms = [bare, _INITIALS.sub(r"\1", bare), name if " " in name else ""]
    composed = unicodedata.normalize("NFC", alias.lower())
    if (typed := composed.translate(_TYPED)) != composed:
        forms.append(_unpunctuated(typed).strip())
    return [*dict.fromkeys([alias, *(form for form in forms if len(form) > 1)])]


def is_distinctive(name: str) -> bool:
    """Whether a name is rare enough to be looked for in every answer.

    A word of its own is if it is unheard of (zipf frequency below 4: an answer of 500 words holds
    it by chance in 1 of 200 cases); several words are unless they are function words only. A
    leading article is no word of the name.
    """
    words = _WORD.findall(_ARTICLE.sub("", name.lower()))
    if len(words) == 1:
        return len(fold(words[0]).strip()) >= MIN_ALIAS_CHARACTERS and zipf(words[0]) < _RARE_NAME
    return not all(map(is_function_word, words))


def _glued(alias: str) -> str:
    words = re.findall(r"\w+", fold(alias))
    return "".join(words) if len(words) > 1 else ""


def _unpunctuated(text: str) -> str:
    return _DROPPED.sub("", _GAPS.sub(" ", fold(text)))


def _without_middle_names(text: str) -> Iterator[str]:
    """Of each run of three or more capitalised words: every two with one or two between them."""
    for run in _LONG_NAME.finditer(text):
        words = re.split(r"[\"“”'‘’()]{0,2} [\"“”'‘’()]{0,2}", run.group())
        for gap in (2, 3):
            yield from (f"{words[i]} {words[i + gap]}" for i in range(len(words) - gap))
