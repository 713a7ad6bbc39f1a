"""Forbidden phrases in plain text: the second, independent net behind the token automaton.

Works on folded text (`detectors.normaliser`) with Aho-Corasick; knows nothing of tokens, HTTP or
decisions. Of several occurrences the one that *ends* first is reported, because that is the one a
reader of a stream meets first, however the stream is cut into chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import ahocorasick

from detectors.normaliser import at_border, fold, fold_with_origins
from detectors.targets import Phrase
from guard.nets import Catch


@dataclass(frozen=True, slots=True)
class Match:
    """An occurrence, as offsets `start` <= i < `end` into the text that was searched."""

    start: int
    end: int


@dataclass(frozen=True, slots=True, order=True)
class FoldedMatch:
    """An occurrence in folded text. The least one in this order is the one to report.

    At equal ends a phrase that needs no word border goes first: it is certain as soon as its last
    character is there, while a whole word waits for the next.
    """

    end: int
    needs_border: bool
    start: int


def _nobody(_phrase: str) -> Sequence[str]:
    return ()


class PhraseMatcher:
    """Finds a fixed set of phrases; immutable, so one serves many requests at once.

    `catch` says what an occurrence is, `owners` of which targets a phrase is, given as it was
    folded.
    """

    def __init__(
        self,
        phrases: Iterable[Phrase],
        catch: Catch = Catch.PHRASE,
        owners: Callable[[str], Sequence[str]] = _nobody,
    ) -> None:
        self.catch, self.owners = catch, owners
        self._whole: dict[str, None] = {}
        self._anywhere: dict[str, None] = {}
        for phrase in phrases:
            folded = fold(phrase.text).strip()
            if folded:
                (self._whole if phrase.whole_word else self._anywhere)[folded] = None
        lengths = [*map(len, self._whole), *map(len, self._anywhere)]
        self.shortest, self.longest = min(lengths, default=0), max(lengths, default=0)
        self._whole_automaton = _automaton(self._whole)
        self._anywhere_automaton = _automaton(self._anywhere)

    def __repr__(self) -> str:
        return f"PhraseMatcher({len(self._whole) + len(self._anywhere)} phrases)"

    def __bool__(self) -> bool:
        return self.longest > 0

    def find(self, text: str) -> Match | None:
        """The occurrence that ends first in a whole text, or None."""
        folded, origins = fold_with_origins(text)
        match = self.find_folded(folded, final=True)
        return None if match is None else Match(origins[match.start], origins[match.end - 1] + 1)

    def held(self, text: str) -> int:
        """How many trailing characters may still become an occurrence when the text goes on."""
        folded, origins = fold_with_origins(text)
        start = next(iter(self.open_starts(folded)), None)
        return 0 if start is None else len(text) - origins[start]

    def find_folded(
        self, folded: str, *, first: int = 0, own: int = 0, final: bool
    ) -> FoldedMatch | None:
        """The occurrence that ends first, of those that begin at `first` or later.

        It must hold a character at `own` or later.
        Unless `final`, a whole word at the very end is not yet one: the word may go on.
        """
        anywhere = self._find_anywhere(folded, first, own)
        whole = self._find_whole(folded, first, own, final)
        if anywhere is None or whole is None:
            return anywhere or whole
        return min(anywhere, whole)

    def open_starts(self, folded: str, first: int = 0) -> list[int]:
        """Where, from `first` on, an occurrence may begin that the text's end leaves open."""
        found: list[int] = []
        anywhere, whole = self._anywhere_automaton, self._whole_automaton
        for start in range(max(first, len(folded) - self.longest), len(folded)):
            rest = folded[start:]
            # The automatons first: they are quick, and say no to most places.
            if (anywhere is not None and anywhere.match(rest)) or (
                whole is not None
                and whole.match(rest)
                and (start == 0 or at_border(folded[start - 1], folded[start]))
            ):
                found.append(start)
        return found

    def _find_anywhere(self, folded: str, first: int, own: int) -> FoldedMatch | None:
        if self._anywhere_automaton is not None:
            for last, length in self._anywhere_automaton.iter(folded):
                # Aho-Corasick reports in the order of ends, the longest of an end first.
                if (start := last + 1 - length) >= first and last >= own:
                    return FoldedMatch(last + 1, False, start)
        return None

    def _find_whole(self, folded: str, first: int, own: int, final: bool) -> FoldedMatch | None:
        if self._whole_automaton is not None:
            for last, length in self._whole_automaton.iter(folded):
                start = last + 1 - length
                if start >= first and last >= own and _is_whole(folded, start, last, final):
                    return FoldedMatch(last + 1, True, start)
        return None


def _is_whole(folded: str, start: int, last: int, final: bool) -> bool:
    if start > 0 and not at_border(folded[start - 1], folded[start]):
        return False
    if last + 1 < len(folded):
        return at_border(folded[last], folded[last + 1])
    return final or at_border(folded[last], _ANY_WORD_CHAR)


_ANY_WORD_CHAR = "a"

PhraseMatchers = Sequence[PhraseMatcher]


def _automaton(phrases: Iterable[str]) -> ahocorasick.Automaton | None:
    """Phrase -> its length; None when there is no phrase (an empty automaton cannot search)."""
    automaton = ahocorasick.Automaton()
    for phrase in phrases:
        automaton.add_word(phrase, len(phrase))
    if not len(automaton):
        return None
    automaton.make_automaton()
    return automaton
