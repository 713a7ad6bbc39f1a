"""The admin API's JSON: what an operator may send.

A field that would have no effect in this version is refused rather than stored, and no message
repeats a value.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StringConstraints,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

from detectors.targets import Action, Enforcement, Example, ForgetTarget, Phrase, Scope, Uld
from server.field_types import (
    DocumentText,
    MatchWords,
    Name,
    Note,
    Pairs,
    Passage,
    PhraseText,
    TargetId,
    Tenant,
    Time,
    clean,
)
from tracing.document import Document

MAX_ITEMS = 10_000
MAX_DOCUMENTS = 1_000
READ_ONLY = frozenset(
    {"status", "generation", "revision", "active_revision", "error", "extracted_phrases"}
    | {"calibration", "statistics", "created_at", "updated_at"}
)


def _refuse_uri(value: Any) -> None:
    if value is not None:
        raise PydanticCustomError("unsupported", "is not fetched: give the document's text instead")


def plain_phrase(value: Any) -> Any:
    """A bare string as a phrase's object."""
    return {"text": value} if isinstance(value, str) else value


class _Input(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ExampleIn(_Input):
    """A prompt about the target and the answer that must not be given."""

    prompt: Passage
    answer: Passage


class PhraseIn(_Input):
    """Text that may not be emitted; a bare string is short for `{"text": ...}`."""

    text: PhraseText
    whole_word: StrictBool = True


class DocumentIn(_Input):
    """A text that must not be given back."""

    text: DocumentText
    source: Note = ""
    metadata: Pairs = {}
    uri: SkipJsonSchema[Annotated[None, BeforeValidator(_refuse_uri)]] = Field(
        default=None, exclude=True
    )


class ThresholdsIn(_Input):
    """`alpha`: the false-positive rate that this target's thresholds are calibrated for.

    `delta`: how near in meaning to a forbidden word (cosine) a word must be for the semantic filter
    to veto it; 1 turns the filter off for this target. `minimum_match`: the shortest run of words
    of a document that no answer may hold.
    """

    alpha: Annotated[float, Field(strict=True, gt=0, lt=1)] | None = None
    delta: Annotated[float, Field(strict=True, ge=0.5, le=1)] | None = None
    minimum_match: MatchWords | None = None


class UldIn(_Input):
    """Subtract a registered assistant's logits from requests that are about the target.

    `weight` is the paper's alpha; `filter` its r: tokens within -ln r of the model's best stay
    possible, and always that share of the vocabulary. Null is as the assistant was trained: 1 and 1
    if it was taught stand-ins, else 2 and 0.01.
    """

    assistant: TargetId
    weight: Annotated[float, Field(strict=True, gt=0, le=10)] | None = None
    filter: Annotated[float, Field(strict=True, gt=0, le=1)] | None = None


class TargetIn(_Input):
    """A forget target as an operator registers it; only `id` and one kind of evidence are needed.

    At least one of `examples`, `phrases` and `documents` must be non-empty.
    """

    id: TargetId
    description: Note = ""
    examples: Annotated[list[ExampleIn], Field(max_length=MAX_ITEMS)] = []
    aliases: Annotated[list[Name], Field(max_length=1_000)] = []
    phrases: Annotated[
        list[
            Annotated[
                PhraseIn, BeforeValidator(plain_phrase, json_schema_input_type=PhraseIn | str)
            ]
        ],
        Field(max_length=MAX_ITEMS),
    ] = []
    excluded_phrases: Annotated[list[PhraseText], Field(max_length=MAX_ITEMS)] = []
    documents: Annotated[list[DocumentIn], Field(max_length=MAX_DOCUMENTS)] = []
    retain_examples: Annotated[list[Passage], Field(max_length=MAX_ITEMS)] = []
    action: Action = Action.STEER
    enforcement: Enforcement = Enforcement.ENFORCE
    scope: Scope = Scope.MATCHED
    thresholds: ThresholdsIn = ThresholdsIn()
    labels: Pairs = {}
    tenant: Tenant | None = None
    expires_at: Time | None = None
    uld: UldIn | None = None

    @model_validator(mode="after")
    def _has_evidence(self) -> Self:
        if not (self.examples or self.phrases or self.documents):
            raise PydanticCustomError(
                "no_evidence", "needs at least one of examples, phrases and documents"
            )
        return self

    def is_over(self) -> bool:
        """Whether the target has expired."""
        return self.expires_at is not None and self.expires_at <= datetime.now(UTC)

    def to_target(self) -> ForgetTarget:
        """The target as the detectors and the guard see it."""
        return ForgetTarget(
            id=self.id,
            description=self.description,
            examples=tuple(Example(item.prompt, item.answer) for item in self.examples),
            aliases=tuple(self.aliases),
            phrases=tuple(Phrase(phrase.text, phrase.whole_word) for phrase in self.phrases),
            excluded_phrases=tuple(self.excluded_phrases),
            documents=tuple(Document(d.text, d.source, dict(d.metadata)) for d in self.documents),
            retain_examples=tuple(self.retain_examples),
            action=self.action,
            enforcement=self.enforcement,
            scope=self.scope,
            alpha=self.thresholds.alpha,
            delta=self.thresholds.delta,
            minimum_match=self.thresholds.minimum_match,
            uld=None
            if self.uld is None
            else Uld(self.uld.assistant, self.uld.weight, self.uld.filter),
            labels=dict(self.labels),
            tenant=self.tenant,
        )


class AssistantIn(_Input):
    """An assistant to register: a name, and its folder on the server's machine."""

    id: TargetId
    folder: Annotated[str, StringConstraints(min_length=1, max_length=4096), AfterValidator(clean)]


_PART = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def field_path(location: tuple[int | str, ...]) -> str:
    """A pydantic location as a client writes it: `examples[3].answer`."""
    path = ""
    for part in location:
        if part == "[key]":  # pydantic's mark for a mapping's key
            continue
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            shown = part if _PART.fullmatch(part) else "?"
            path += f".{shown}" if path else shown
    return path
