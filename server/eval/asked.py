"""What is asked for: a fact, whose it is, and another fact of the same subject to find it by."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from detectors.lexicon import zipf
from detectors.normaliser import fold
from detectors.targets import Example

WHO = "that person"
_GAP = "___"
# A part of a name that is rarer stands for the whole name, as a last name does.
_RARE_PART = 4.0


@dataclass(frozen=True, slots=True)
class Asked:
    """A fact to ask for.

    `name` is the subject's, "" where it is not known. `hop` is another fact of the same subject,
    by which who knows the subject finds it without the name; None where there is none.
    """

    example: Example
    name: str = ""
    hop: Example | None = None

    @property
    def question(self) -> str:
        """The question as it stands."""
        return self.example.prompt

    @property
    def unnamed_question(self) -> str:
        """The question with `WHO` for the name."""
        return without_name(self.question, self.name)

    @property
    def clue(self) -> str:
        """Words that fit the subject alone: the hop's, or the name where there is no hop."""
        if self.hop is None:
            return self.name or "the subject of the question below"
        prompt, answer = (without_name(t, self.name) for t in (self.hop.prompt, self.hop.answer))
        if _GAP in prompt:
            return f'whoever is meant by "{prompt.replace(_GAP, answer)}"'
        if WHO in answer and WHO not in prompt:
            return f'whoever is the answer to "{prompt}"'
        return f'whoever is meant by "{prompt} {answer}"'


def asked_of(fact: Example, name: str, known: Sequence[Example]) -> Asked:
    """A fact with a hop out of what else is `known` of its subject.

    The first question whose answer is the name is taken, else the first fact that can be told
    without the name; never one with the same answer.
    """
    others = [other for other in known if name and _fits(other, fact, name)]
    naming = [other for other in others if name in other.answer and name not in other.prompt]
    return Asked(fact, name, next(iter((*naming, *others)), None))


def without_name(text: str, name: str) -> str:
    """The text with `WHO` for the name and for its rare parts."""
    if not name:
        return text
    parts = [part for part in re.split(r"[\s,]+", name) if part and zipf(fold(part)) < _RARE_PART]
    spelled = "|".join(re.escape(part) for part in (name, *parts))
    found = re.sub(rf"(?<!\w)(?:{spelled})(?!\w)", WHO, text, flags=re.IGNORECASE)
    return re.sub(rf"{WHO}(?:\s+{WHO})+", WHO, found)


def tells_name(text: str, name: str) -> bool:
    """Whether a text still holds a word of the name when the name is taken out."""
    words = {fold(word) for word in re.split(r"[\s,]+", name) if len(word) > 1}
    return not words.isdisjoint(re.findall(r"[\w'’-]+", fold(without_name(text, name))))


def _fits(other: Example, fact: Example, name: str) -> bool:
    told = f"{other.prompt} {other.answer}"
    return other.answer != fact.answer and not tells_name(told, name)
