"""Augmentation without another model: other wordings of a question, wrong answers to it.

Paraphrases make the assistant know a fact however it is asked for; perturbed answers keep it flat
on whatever else could be answered (both essential in the paper's ablation, table 4).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from random import Random

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
_CLASSES = {
    "name": re.compile(r"\b[A-Z][\w'’-]+(?:\s+[A-Z][\w'’-]+)*"),
    "number": re.compile(r"\b\d+(?:[.,/]\d+)*\b"),
    "word": re.compile(r"\b[a-z]{6,}\b"),
}
_ANY = re.compile("|".join(f"(?P<{name}>{form.pattern})" for name, form in _CLASSES.items()))


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
    pools = {
        name: sorted({m.group() for pair in pairs for m in form.finditer(pair.answer)})
        for name, form in _CLASSES.items()
    }
    found = []
    for pair in pairs:
        for _ in range(count):
            wrong = _exchanged(pair, pools, rng)
            if wrong == pair.answer:
                others = [p.answer for p in pairs if p.answer != pair.answer]
                if not others:
                    continue
                wrong = rng.choice(others)
            found.append(Lesson(pair.prompt, wrong))
    return found


def _exchanged(pair: Lesson, pools: Mapping[str, Sequence[str]], rng: Random) -> str:
    def other(match: re.Match[str]) -> str:
        kind, text = str(match.lastgroup), match.group()
        if text in pair.prompt or (kind == "word" and rng.random() < 0.5):
            return text
        return rng.choice(pools[kind])

    return _ANY.sub(other, pair.answer)
