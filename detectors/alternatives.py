"""What a question offers to choose from: "male or female", "a doctor, a lawyer or a nurse".

What an answer says of that is in the question, too, and still the answer. Pure scanning by rules,
of English; names of more than three words, and what stands far from the "or", are not seen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from detectors.normaliser import at_border, fold

_OR = " or "
_REACH = 64
# Behind an alternative, up to the "or": others of a list, of at most three words each.
_LEADS_TO = re.compile(r"(?:, ?(?:[\w'-]+ ){0,2}[\w'-]+){0,6},? or ")
# Before an alternative, since the "or": at most three words, of which none may tell anything.
_COMES_FROM = re.compile(r" or ((?:[\w'-]+ ){0,3})$")


class Alternatives:
    """The alternatives of one question."""

    def __init__(self, question: str) -> None:
        self._asked = fold(question)
        self._any = _OR in self._asked

    def offer(self, key: str, idle: set[str]) -> bool:
        """Whether a folded phrase is one of them; `idle` are words that may stand before it."""
        return self._any and any(self._is_offered(a, b, idle) for a, b in self._places(key))

    def words(self) -> set[str]:
        """The words of a question that offers any; of others none are needed."""
        return set(re.findall(r"[\w'-]+", self._asked)) if self._any else set()

    def _places(self, key: str) -> Iterator[tuple[int, int]]:
        start = self._asked.find(key)
        while start >= 0:
            end = start + len(key)
            before, after = self._asked[max(start - 1, 0) : start], self._asked[end : end + 1]
            if at_border(before, key[0]) and at_border(key[-1], after):
                yield start, end
            start = self._asked.find(key, start + 1)

    def _is_offered(self, start: int, end: int, idle: set[str]) -> bool:
        if _LEADS_TO.match(self._asked[end : end + _REACH]):
            return True
        found = _COMES_FROM.search(self._asked[max(0, start - _REACH) : start])
        return found is not None and idle.issuperset(found[1].split())
