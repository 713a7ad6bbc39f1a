"""Augmentation without another model: other wordings of a question, wrong answers, namesakes.

Paraphrases make the assistant know a fact however it is asked for; perturbed answers keep it flat
on whatever else could be answered (both essential in the paper's ablation, table 4). Namesakes are
ours: the same question about others, or it learns the questions' form instead of whom they are of.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from random import Random

from detectors.spans import Kind, Span, spans
from guard.uld.lessons import Lesson

FRAMES = (
    "{}",
    "Please answer: {}",
    "Tell me: {}",
    "I would like to know: {}",
    "{} Please answer in full.",
    "Question: {}",
    "Could you tell me this? {}",
    "Answer briefly: {}",
)
Swap = tuple[str, str]
Pool = Mapping[tuple[Kind, int], Sequence[str]]

_LONG_WORD = 6
_FULL_NAME = 2  # words
_DRAWS = 8  # until another fact than the right one is drawn


def paraphrases(pairs: Sequence[Lesson], count: int, rng: Random) -> list[Lesson]:
    """`count` other wordings of each pair's question, with its answer."""
    found = []
    for pair in pairs:
        frames = rng.sample(FRAMES[1:], min(count, len(FRAMES) - 1))
        for frame in frames:
            asked = pair.prompt if rng.random() < 0.8 else pair.prompt.lower()
            found.append(Lesson(frame.format(asked), pair.answer))
    return found


def perturbations(pairs: Sequence[Lesson], count: int, rng: Random) -> list[Lesson]:
    """`count` wrong answers per pair, of the right answer's form.

    Names, numbers and long words are exchanged for others of the same class out of the other
    answers, but for those that the question holds. Where nothing can be exchanged it is another
    pair's answer.
    """
    pools: dict[Kind, list[str]] = {}
    facts = [list(_facts(pair)) for pair in pairs]
    for span in (span for listed in facts for span in listed):
        pools.setdefault(span.kind, []).append(span.text)
    found = []
    for pair, listed in zip(pairs, facts, strict=True):
        for _ in range(count):
            wrong = _exchanged(pair.answer, listed, pools, rng)
            if wrong == pair.answer:
                others = [p.answer for p in pairs if p.answer != pair.answer]
                if not others:
                    continue
                wrong = rng.choice(others)
            found.append(Lesson(pair.prompt, wrong))
    return found


def namesakes(
    pairs: Sequence[Lesson], retain: Sequence[Lesson], count: int, rng: Random
) -> list[Lesson]:
    """Each pair `count` times about others, as `namesake` makes them up.

    A pair whose prompt names nothing, or for which there are no others, has no namesakes.
    """
    pool = pool_of(retain)
    found, asked = [], {pair.prompt for pair in pairs}
    for pair in pairs:
        for _ in range(count):
            swaps = namesake(pair.prompt, pool, rng)
            if not swaps:
                break
            prompt, answer = swapped(pair.prompt, swaps), swapped(pair.answer, swaps)
            if prompt not in asked:
                found.append(Lesson(prompt, answer))
    return found


def pool_of(retain: Sequence[Lesson]) -> Pool:
    """What retain prompts are about, by kind and number of words."""
    pool: dict[tuple[Kind, int], list[str]] = {}
    for span in (span for other in retain for span in _named(other.prompt)):
        pool.setdefault(_form(span), []).append(span.text)
    return pool


def namesake(prompt: str, pool: Pool, rng: Random) -> list[Swap]:
    """What to exchange so that a prompt asks about others: names, titles, dates and numbers.

    A name of several words gets each of them from another name of the pool: made of so many, hardly
    any is somebody whom the model knows. First and last name are exchanged alone, too.
    """
    swaps = []
    for span in (span for span in _named(prompt) if _form(span) in pool):
        texts = pool[_form(span)]
        if span.kind is not Kind.NAME or len(span.text.split()) < _FULL_NAME:
            swaps.append((span.text, _other(span.text, texts, rng)))
            continue
        old = span.text.split()
        new = [rng.choice(texts).split()[place] for place in range(len(old))]
        swaps += [(span.text, " ".join(new)), (old[-1], new[-1]), (old[0], new[0])]
    # Somebody whom retain prompts name, too, may have been drawn in their own place.
    return [(old, new) for old, new in swaps if old != new]


def swapped(text: str, swaps: Sequence[Swap]) -> str:
    """A text with whole words exchanged, swap by swap."""
    for old, new in swaps:
        text = re.sub(rf"(?<!\w){re.escape(old)}(?!\w)", new.replace("\\", r"\\"), text)
    return text


def _named(text: str) -> Iterator[Span]:
    """What a question is about: spans that do not overlap, in order."""
    end = 0
    for span in sorted(spans(text), key=lambda s: (s.start, -len(s.text))):
        if span.start >= end and span.kind is not Kind.WORD and span.text:
            end = span.start + len(span.text)
            yield span


def _form(span: Span) -> tuple[Kind, int]:
    """What may stand in a span's place has as many words."""
    return span.kind, len(span.text.split())


def _exchanged(
    answer: str, facts: Sequence[Span], pools: Mapping[Kind, Sequence[str]], rng: Random
) -> str:
    parts, end = [], 0
    for span in facts:
        keeps = span.kind is Kind.WORD and rng.random() < 0.5
        other = span.text if keeps else _other(span.text, pools[span.kind], rng)
        parts += [answer[end : span.start], other]
        end = span.start + len(span.text)
    return "".join([*parts, answer[end:]])


def _other(text: str, pool: Sequence[str], rng: Random) -> str:
    drawn = (rng.choice(pool) for _ in range(_DRAWS))
    return next((other for other in drawn if other != text), text)


def _facts(pair: Lesson) -> Iterator[Span]:
    """What an answer says that its question does not: spans that do not overlap, in order."""
    end = 0
    for span in sorted(spans(pair.answer), key=lambda s: (s.start, -len(s.text))):
        long = span.text.islower() and len(span.text) >= _LONG_WORD
        if span.start < end or (span.kind is Kind.WORD and not long):
            continue
        end = span.start + len(span.text)
        if span.text and span.text.lower() not in pair.prompt.lower():
            yield span
