"""Augmentation by a model: the target itself is asked to reword a question or to answer it wrongly.

What it writes is taken only where it can be checked, so that a model too weak for the task does no
harm: a rewording must keep the question's names and numbers and change its words, a wrong answer
must differ from the right one in a fact. Templates make up for the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from detectors.spans import Kind, spans
from guard.uld.augment import paraphrases, perturbations
from guard.uld.lessons import Lesson

Ask = Callable[[Sequence[str]], Sequence[str]]

_REWORD = "Ask the following question in other words. Write the question only.\n\n{}"
_REWORD_AGAIN = "Rewrite this question so that it begins differently. Write it only.\n\n{}"
_WRONG = (
    "Write a wrong answer to the question: like the right answer in form, but with other names, "
    "dates and facts. Write the wrong answer only.\n\nQuestion: {}\nRight answer: {}"
)
_FACTS = frozenset({Kind.NAME, Kind.DATE, Kind.NUMBER, Kind.TITLE})


def written_paraphrases(
    pairs: Sequence[Lesson], count: int, ask: Ask, rng: Random
) -> tuple[list[Lesson], int]:
    """`count` rewordings per pair, with its answer; also how many the model wrote."""
    found, written = [], 0
    for number in range(count):
        form = _REWORD if number % 2 == 0 else _REWORD_AGAIN
        texts = ask([form.format(pair.prompt) for pair in pairs])
        spare = paraphrases(pairs, 1, rng)
        for pair, text, other in zip(pairs, texts, spare, strict=True):
            good = is_rewording(pair.prompt, text)
            written += good
            found.append(Lesson(text.strip(), pair.answer) if good else other)
    return found, written


def written_perturbations(
    pairs: Sequence[Lesson], count: int, ask: Ask, rng: Random
) -> tuple[list[Lesson], int]:
    """`count` wrong answers per pair; also how many the model wrote (one per pair at most)."""
    found = perturbations(pairs, count, rng)
    if not count:
        return found, 0
    texts = ask([_WRONG.format(pair.prompt, pair.answer) for pair in pairs])
    good = [
        Lesson(pair.prompt, text.strip())
        for pair, text in zip(pairs, texts, strict=True)
        if is_wrong(pair.answer, text)
    ]
    return [*found[: len(found) - len(good)], *good], len(good)


def is_rewording(question: str, text: str) -> bool:
    """Whether `text` asks for the same in other words, as far as can be told from the words."""
    same = text.strip().lower() == question.strip().lower()
    like = 0.4 <= len(text) / max(1, len(question)) <= 2.5 and "\n" not in text.strip()
    return like and not same and _facts(question) <= _facts(text)


def is_wrong(answer: str, text: str) -> bool:
    """Whether `text` has an answer's length and as many facts, but not the same."""
    like = 0.4 <= len(text) / max(1, len(answer)) <= 2.5
    facts, others = _facts(answer), _facts(text)
    return like and len(others) >= len(facts) and bool(facts - others)


def _facts(text: str) -> set[str]:
    return {span.text.lower() for span in spans(text) if span.kind in _FACTS}
