"""What the soak's clients ask: which question, in which shape of request, and how they behave."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from detectors.targets import Example
from server.attack.cases import Prey
from server.attack.shapes import SHAPES
from server.bench.soak.questions import Known

# Their answers are the reference's text in another form.
CHAT_SHAPES = (
    *("chat", "chat_stream", "chat_logprobs", "chat_logprobs_stream"),
    *("messages", "messages_stream", "responses", "responses_stream"),
)
COMPLETION_SHAPES = ("completions", "completions_stream")
# Here anything may be said but what is forbidden, so choices, tools and forms can be asked for.
MATCHED_SHAPES = (
    *CHAT_SHAPES,
    *COMPLETION_SHAPES,
    *("chat_choices", "chat_choices_stream", "chat_schema", "chat_tool", "chat_tool_stream"),
    *("chat_batch", "messages_tool_forced", "responses_tool_forced"),
)
_NO_EXAMPLE = Example("", "")


class Manner(StrEnum):
    """How a client behaves: `SLOW` ones send and read in drops, `LEAVING` ones do not stay."""

    QUICK = "quick"
    SLOW = "slow"
    LEAVING = "leaving"


_MANNERS = (Manner.QUICK,) * 8 + (Manner.SLOW, Manner.LEAVING)


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: where it goes, and what its answer is held against.

    `expected` is the whole answer of an unmatched question; a matched one has its `prey` instead.
    """

    shape: str
    manner: Manner
    path: str
    body: Mapping[str, Any]
    expected: str | None = None
    prey: Prey | None = None

    @property
    def streams(self) -> bool:
        """Whether events are asked for."""
        return bool(self.body.get("stream"))


def unmatched(known: Known, shape: str, manner: Manner, model: str) -> Ask:
    """A question whose answer is known."""
    request = SHAPES[shape]
    body = request.body(model, known.question, _NO_EXAMPLE)
    expected = known.completion if shape in COMPLETION_SHAPES else known.chat
    return Ask(shape, manner, request.path, body, expected=expected)


def matched(prey: Prey, shape: str, manner: Manner, model: str) -> Ask:
    """A registered question."""
    request = SHAPES[shape]
    body = request.body(model, prey.asked.question, prey.asked.example)
    return Ask(shape, manner, request.path, body, prey=prey)


def says(prey: Prey, text: str) -> bool:
    """Whether a text says what no answer to the registered question may say."""
    return prey.of_target.find(text) is not None or prey.own.find(text) is not None


def asks(known: Sequence[Known], prey: Sequence[Prey], model: str, seed: int) -> Iterator[Ask]:
    """Requests without end, matched and unmatched in equal parts, the same for the same seed."""
    chance = random.Random(seed)  # noqa: S311 - the same load every time
    completions = [one for one in known if one.completion is not None]
    while True:
        manner = chance.choice(_MANNERS)
        if chance.random() < 0.5:
            yield matched(chance.choice(prey), chance.choice(MATCHED_SHAPES), manner, model)
        elif completions and chance.random() < 0.2:
            shape = chance.choice(COMPLETION_SHAPES)
            yield unmatched(chance.choice(completions), shape, manner, model)
        else:
            yield unmatched(chance.choice(known), chance.choice(CHAT_SHAPES), manner, model)
