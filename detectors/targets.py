"""The forget target: what an operator registers, as every package sees it.

Knows nothing of HTTP, storage or token ids; `server.schemas` builds these from JSON.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from tracing.document import Document


class Action(StrEnum):
    """What to do with a request that is about a target."""

    STEER = "steer"
    REFUSE = "refuse"


class Enforcement(StrEnum):
    """Whether the action is carried out or only recorded."""

    ENFORCE = "enforce"
    OBSERVE = "observe"


class Scope(StrEnum):
    """Which requests a target touches: those a detector matched, or all."""

    MATCHED = "matched"
    ALWAYS = "always"


@dataclass(frozen=True, slots=True)
class Example:
    """One forget item: a prompt and the answer that must not be given."""

    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class Phrase:
    """Text that may not be emitted; `whole_word` asks for word borders on both sides."""

    text: str
    whole_word: bool = True


@dataclass(frozen=True, slots=True)
class Uld:
    """Subtract the logits of a registered assistant, by name.

    `weight` is the paper's alpha, `rate` the r of its filter; None: as the assistant was trained.
    """

    assistant: str
    weight: float | None = None
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class ForgetTarget:
    """A person, book, document or corpus to be forgotten (the resource of the admin API).

    At least one of `examples`, `phrases` or `documents` is non-empty. `alpha` is the
    false-positive rate on benign prompts that the similarity thresholds are calibrated for;
    None takes the server's default. `delta` is the cosine from which on the semantic filter vetoes
    a word that is near a forbidden one in meaning; None takes the built-in default, 1 turns it off.
    `minimum_match` is the shortest run of words of a document that no answer may hold.
    `uld`, if given, also subtracts an assistant from requests with strong evidence. It applies to
    the keys of its `tenant` and to those of none, or to all.
    """

    id: str
    description: str = ""
    examples: tuple[Example, ...] = ()
    aliases: tuple[str, ...] = ()
    phrases: tuple[Phrase, ...] = ()
    excluded_phrases: tuple[str, ...] = ()
    documents: tuple[Document, ...] = ()
    retain_examples: tuple[str, ...] = ()
    action: Action = Action.STEER
    enforcement: Enforcement = Enforcement.ENFORCE
    scope: Scope = Scope.MATCHED
    alpha: float | None = None
    delta: float | None = None
    minimum_match: int | None = None
    uld: Uld | None = None
    labels: dict[str, str] = field(default_factory=dict)
    tenant: str | None = None
