"""Exact evidence: a target's alias occurs in a text (folded, at word borders)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import ahocorasick

from detectors.normaliser import at_border, fold

# A shorter alias would name its target in almost every text.
MIN_ALIAS_CHARACTERS = 2


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

    def find(self, text: str) -> set[int]:
        """Numbers of the phrases that occur in the text."""
        if self._empty:
            return set()
        folded = fold(text)
        found: set[int] = set()
        for last, (phrase, numbers) in self._automaton.iter(folded):
            start, end = last + 1 - len(phrase), last + 1
            before, after = folded[max(start - 1, 0) : start], folded[end : end + 1]
            if at_border(before, phrase[0]) and at_border(phrase[-1], after):
                found.update(numbers)
        return found


class AliasMatcher:
    """Which targets are named in a text."""

    def __init__(self, aliases: Sequence[tuple[str, int]]) -> None:
        """`aliases` are pairs of an alias and its target's index."""
        usable = [pair for pair in aliases if len(fold(pair[0]).strip()) >= MIN_ALIAS_CHARACTERS]
        self._targets = [target for _, target in usable]
        self._index = PhraseIndex(alias for alias, _ in usable)

    def targets(self, texts: Iterable[str]) -> set[int]:
        """Indices of the targets with an alias in one of the texts."""
        return {self._targets[number] for text in texts for number in self._index.find(text)}
