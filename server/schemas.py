"""The admin API's JSON: what an operator may send and what the server answers.

Every limit is stated here. A field that would have no effect in this version is refused rather than
stored, and no message repeats a value.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
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

from detectors.normaliser import fold
from detectors.targets import Action, Enforcement, Example, ForgetTarget, Phrase, Scope, Uld
from tracing.document import Document

MAX_ITEMS = 10_000
MAX_DOCUMENTS = 1_000
MAX_LABELS = 64
READ_ONLY = frozenset(
    {"status", "generation", "revision", "active_revision", "error", "extracted_phrases"}
    | {"calibration", "statistics", "created_at", "updated_at"}
)


def clean(text: str) -> str:
    """The text, if every tokenizer and store takes it."""
    if "\0" in text:
        raise PydanticCustomError("nul", "must not hold a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("surrogate", "must not hold half of a surrogate pair") from None
    return text


def _worded(text: str) -> str:
    if not any(char.isalnum() for char in fold(clean(text))):
        raise PydanticCustomError("wordless", "must hold at least one letter or digit")
    return text


def _representable(time: datetime) -> datetime:
    try:
        time.astimezone(UTC)
    except OverflowError:
        raise PydanticCustomError("time", "must be a time of the years 1 to 9999") from None
    return time


def _refuse(value: Any) -> None:
    if value is not None:
        raise PydanticCustomError("unsupported", "is not supported by this version of Lethegate")


def _refuse_uri(value: Any) -> None:
    if value is not None:
        raise PydanticCustomError("unsupported", "is not fetched: give the document's text instead")


def plain_phrase(value: Any) -> Any:
    """A bare string as a phrase's object."""
    return {"text": value} if isinstance(value, str) else value


# Whose targets and keys they are; without one they are everybody's.
Tenant = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
TargetId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
LabelKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$")]
Name = Annotated[str, StringConstraints(max_length=256), AfterValidator(_worded)]
PhraseText = Annotated[str, StringConstraints(max_length=512), AfterValidator(_worded)]
Passage = Annotated[str, StringConstraints(max_length=20_000), AfterValidator(_worded)]
DocumentText = Annotated[str, StringConstraints(max_length=2_000_000), AfterValidator(_worded)]
Note = Annotated[str, StringConstraints(max_length=2_000), AfterValidator(clean)]
Pairs = Annotated[
    dict[LabelKey, Annotated[str, StringConstraints(max_length=256), AfterValidator(clean)]],
    Field(max_length=MAX_LABELS),
]
MatchWords = Annotated[int, Field(strict=True, ge=3, le=60)]
Time = Annotated[AwareDatetime, AfterValidator(_representable)]
Unsupported = SkipJsonSchema[Annotated[None, BeforeValidator(_refuse)]]


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
    possible, and always that share of the vocabulary.
    """

    assistant: TargetId
    weight: Annotated[float, Field(strict=True, gt=0, le=10)] = 2.0
    filter: Annotated[float, Field(strict=True, gt=0, le=1)] = 0.01


class TargetIn(_Input):
    """A forget target as an operator registers it; only `id` and one kind of evidence are needed.

    At least one of `examples`, `phrases` and `documents` must be non-empty.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "id": "ada-novak",
                    "description": "A fictitious author who asked to be forgotten",
                    "examples": [
                        {
                            "prompt": "Where was the novelist Ada Novak born?",
                            "answer": "Ada Novak was born in Port Sorrel.",
                        }
                    ],
                    "aliases": ["Ada Novak"],
                    "phrases": ["Port Sorrel"],
                }
            ]
        },
    )

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


class AssistantOut(BaseModel):
    """A registered assistant; `in_use` while a target or the policy in force names it.

    What its card says is null where that is damaged; the assistant can still be retired.
    """

    id: str
    digest: str
    layers: int | None = None
    base_layers: int | None = None
    num_pairs: int | None = None
    trained_on: list[str] | None = None
    metrics: dict[str, float] | None = None
    in_use: bool


class AssistantPage(BaseModel):
    """A page of assistants by id; `next` is the cursor for `after`, null on the last page."""

    assistants: list[AssistantOut]
    next: str | None


class JobError(BaseModel):
    """Why a job failed: a closed code and a sentence without forget text."""

    code: str
    message: str


class JobOut(BaseModel):
    """One change on its way into force; of many targets `target_ids` has the first 100."""

    id: str
    kind: str
    state: str
    target_ids: list[str]
    num_targets: int
    corpus_id: str | None = None
    assistant_id: str | None = None
    progress: float
    message: str
    error: JobError | None
    generation: int | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class TargetUse(BaseModel):
    """What a target did so far: of prompts that it was detected in, and of answers."""

    matched: int
    refused: int
    steered: int
    cut: int
    would_refuse: int
    would_steer: int
    would_cut: int
    last_matched_at: datetime | None


class TargetSummary(BaseModel):
    """A target in a list: no forget text; `description` is null unless an admin asks.

    `statistics` are null where a change is answered.
    """

    id: str
    description: str | None
    status: str
    revision: int
    active_revision: int | None
    generation: int | None
    action: str
    enforcement: str
    scope: str
    num_examples: int
    num_phrases: int
    num_documents: int
    labels: dict[str, str]
    tenant: str | None
    error: JobError | None
    expires_at: datetime | None
    created_at: datetime
    updated_at: datetime
    statistics: TargetUse | None


class TargetOut(BaseModel):
    """A whole target; `target` is what was registered, the rest is read-only."""

    id: str
    status: str
    revision: int
    active_revision: int | None
    generation: int | None
    error: JobError | None
    target: dict[str, Any]
    report: dict[str, Any] | None
    created_at: datetime
    updated_at: datetime


class Accepted(BaseModel):
    """Stored; the job says when it is in force."""

    target: TargetSummary
    job: JobOut


class TargetPage(BaseModel):
    """A page of targets by id; `next` is the cursor for `after`, null on the last page."""

    targets: list[TargetSummary]
    next: str | None


class JobPage(BaseModel):
    """A page of jobs, newest first; `next` is the cursor for `after`."""

    jobs: list[JobOut]
    next: str | None


class FollowerOut(BaseModel):
    """A live gateway or worker process, or a node, and the policy it applies.

    `node` is where it runs; null beside the control process.
    """

    kind: str
    node: str | None
    pid: int
    generation: int | None
    digest: str | None
    failed_generation: int | None
    error: str | None


class GenerationOut(BaseModel):
    """The policy that rules, and who has acknowledged it."""

    generation: int
    digest: str
    in_force: bool
    num_targets: int
    cause: str
    created_at: datetime
    followers: list[FollowerOut]


class GenerationRow(BaseModel):
    """An activation; `confirmed_at` is when everybody who ran had acknowledged it, null if never.

    A digest comes back when nothing else is in force than before.
    """

    generation: int
    digest: str
    cause: str
    num_targets: int
    created_at: datetime
    confirmed_at: datetime | None


class GenerationPage(BaseModel):
    """A page of activations, newest first; `next` is the cursor for `after`."""

    generations: list[GenerationRow]
    next: int | None


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
