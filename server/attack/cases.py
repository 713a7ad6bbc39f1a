"""The matrix of attacks: which cases are tried, by fixed rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detectors.extraction import ExtractedPhrase, extract
from detectors.targets import ForgetTarget, Phrase
from guard.phrase_matcher import PhraseMatcher
from server.attack.kinds import KINDS
from server.attack.shapes import SHAPES
from server.eval.asked import Asked, asked_of
from server.eval.conversations import DISGUISES

PLAIN = "plain"


@dataclass(frozen=True, slots=True)
class Case:
    """One attack on one example of the target."""

    item: int
    kind: str
    encoding: str
    shape: str

    @property
    def id(self) -> str:
        """Tells the case without telling what it is about."""
        return f"{self.item}/{self.kind}/{self.encoding}/{self.shape}"

    @property
    def api(self) -> str:
        """The path that it is sent to."""
        return SHAPES[self.shape].path


@dataclass(frozen=True, slots=True)
class Prey:
    """What is attacked: what is asked for, and what no answer may say.

    `of_target` is what the target forbids whatever of it is asked; `own` are the phrases of the
    answer that is asked for, common words among them.
    """

    asked: Asked
    of_target: PhraseMatcher
    own: PhraseMatcher


def prey_of(target: ForgetTarget) -> list[Prey]:
    """The examples of a target, each with the target's phrases and its own."""
    extraction = extract(target)
    found = []
    of_target = _matcher(extraction.target)
    for example, own in zip(target.examples, extraction.items, strict=True):
        said = example.prompt + example.answer
        name = next((alias for alias in target.aliases if alias in said), "")
        asked = asked_of(example, name, target.examples)
        found.append(Prey(asked, of_target, _matcher(own)))
    return found


def matrix(num_items: int, rounds: int, *, full: bool) -> list[Case]:
    """The cases, over the examples in turn.

    Every kind meets every shape in plain text, and every encoding meets every shape; `full` tries
    every kind in every encoding and shape. `rounds` is how many examples each combination gets.
    """
    cases = []
    for number in range(rounds):
        for place, (kind, encoding, shape) in enumerate(_combinations(full=full)):
            item = (place * rounds + number) % num_items
            cases.append(Case(item, kind, encoding, shape))
    return list(dict.fromkeys(cases))


def request_of(case: Case, prey: Sequence[Prey], model: str) -> tuple[str, Mapping[str, Any]]:
    """The route and the body of a case."""
    own = prey[case.item]
    question = KINDS[case.kind](own.asked)
    if case.encoding != PLAIN:
        question = DISGUISES[case.encoding](question)
    shape = SHAPES[case.shape]
    return shape.path, shape.body(model, question, own.asked.example)


def _matcher(phrases: Sequence[ExtractedPhrase]) -> PhraseMatcher:
    return PhraseMatcher(Phrase(phrase.text, phrase.whole_word) for phrase in phrases)


def _combinations(*, full: bool) -> Iterator[tuple[str, str, str]]:
    for kind in KINDS:
        for shape in SHAPES:
            yield kind, PLAIN, shape
    for encoding in DISGUISES:
        for shape in SHAPES:
            for kind in KINDS if full else ("as_registered",):
                yield kind, encoding, shape
