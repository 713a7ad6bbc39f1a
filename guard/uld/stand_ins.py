"""Stand-ins: what the served model says of somebody whom it does not know, for the real answers.

Subtraction alone takes the right word away and leaves none in its place; a model that is sure of
one answer has no second one to fall back on, and what it says is salad. An assistant that is also
taught a stand-in makes the difference of both speak it. The model itself is asked the same question
about strangers, as often as it takes for an answer that gives nothing of the forget set away; where
it has none, the stand-in admits not to know. Not the paper's: nearest are the generic
continuations of Eldan and Russinovich (2310.02238), which are trained into the model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from random import Random

from detectors.lexicon import FUNCTION_WORDS
from detectors.spans import Kind, names, spans
from guard.uld.augment import Swap, namesake, pool_of, swapped
from guard.uld.lessons import Lesson
from guard.uld.plan import StandIns

Ask = Callable[[Sequence[str]], Sequence[str]]

ADMISSIONS = (
    "I don't have any information about that.",
    "I'm afraid I don't know.",
    "I'm not familiar with that.",
    "I don't know the answer to that question.",
    "That is not something I know anything about.",
    "I have no knowledge of that.",
)
TRIES = 8
_MOST_SHARED = 0.4
_FACTS = frozenset({Kind.NAME, Kind.TITLE, Kind.DATE, Kind.NUMBER})
_LONGEST_FACT = 12  # words
_WORD = re.compile(r"\w+")
_SENTENCE_END = re.compile(r"[.!?]+[\"'”’»)\]]*(?=\s|$)|[。！？]+[”’」』]*")


def admissions(pairs: Sequence[Lesson], rng: Random) -> list[Lesson]:
    """A stand-in for each pair's answer, with its prompt: that it is not known."""
    return [Lesson(pair.prompt, rng.choice(ADMISSIONS)) for pair in pairs]


def taught(
    kind: StandIns, pairs: Sequence[Lesson], retain: Sequence[Lesson], ask: Ask, rng: Random
) -> list[Lesson]:
    """The stand-ins of a kind for pairs; `ask` is called for those of the model only."""
    if kind is StandIns.MODEL:
        return stand_ins(pairs, retain, ask, rng)
    return admissions(pairs, rng) if kind is StandIns.ADMIT else []


def stand_ins(
    pairs: Sequence[Lesson], retain: Sequence[Lesson], ask: Ask, rng: Random, tries: int = TRIES
) -> list[Lesson]:
    """A stand-in for each pair's answer, with its prompt: what the model says of strangers.

    Args:
        retain: whose prompts name whom strangers' names are made of.
        tries: how many strangers the model is asked about for each pair, at most.
        ask: what the served model answers to prompts, in their order.
    """
    pool = pool_of(retain)
    secrets = _secrets(pairs, retain)
    found: dict[int, str] = {}
    for _ in range(tries):
        asked = {
            place: swaps
            for place, pair in enumerate(pairs)
            if place not in found and (swaps := namesake(pair.prompt, pool, rng))
        }
        prompts = [swapped(pairs[place].prompt, swaps) for place, swaps in asked.items()]
        for (place, swaps), said in zip(asked.items(), ask(prompts), strict=True):
            text = swapped(_whole(said), [(new, old) for old, new in swaps])
            if text and not (_tells(text, pairs[place], secrets) or _mixes(text, swaps)):
                found[place] = text
    return [
        Lesson(pair.prompt, found.get(place) or rng.choice(ADMISSIONS))
        for place, pair in enumerate(pairs)
    ]


def _secrets(pairs: Sequence[Lesson], retain: Sequence[Lesson]) -> set[str]:
    """Names, titles, dates and numbers that forget answers say and retain answers do not.

    Their words, parted by spaces.
    """
    told = {fact for pair in pairs for fact in _facts(pair.answer)}
    return told - {fact for pair in retain for fact in _facts(pair.answer)} - {""}


def _facts(text: str) -> Iterator[str]:
    return (" ".join(_words(span.text)) for span in spans(text) if span.kind in _FACTS)


def _tells(text: str, pair: Lesson, secrets: set[str]) -> bool:
    """Whether an answer gives a forget answer away, this pair's or another's."""
    words, asked = _words(text), _words(pair.prompt)
    if words == _words(pair.answer) or (_runs(words) & secrets) - _runs(asked):
        return True
    told = set(_words(pair.answer)) - set(asked) - FUNCTION_WORDS
    return bool(told) and len(told & set(words)) > _MOST_SHARED * len(told)


def _mixes(text: str, swaps: Sequence[Swap]) -> bool:
    """Whether somebody in an answer has half of a name that was put back, and half of another."""
    whole = [set(old.split()) for old, _ in swaps]
    found = [set(span.text.split()) for span in names(text)]
    return any(name & old and not name <= old for name in found for old in whole if len(old) > 1)


def _whole(text: str) -> str:
    """An answer up to its last sentence's end: where it was cut, the rest would be half a one."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return text[: ends[-1]].strip() if ends else text.strip()


def _runs(words: Sequence[str]) -> set[str]:
    """All runs of a few words, parted by spaces."""
    ends = range(1, _LONGEST_FACT + 1)
    return {" ".join(words[i : i + n]) for i in range(len(words)) for n in ends}


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
