"""The JSON of corpora: what an operator may send and what the server answers.

No message repeats a value; document text leaves only where a field says so.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StringConstraints,
    model_validator,
)
from pydantic_core import PydanticCustomError

from detectors.targets import Enforcement, Scope
from server.field_types import MatchWords, Note, TargetId, clean
from server.resources import JobOut
from server.schemas import DocumentIn

DEFAULT_MATCH = 8
MAX_UPLOAD_TEXT = 50_000_000


class Label(StrEnum):
    """Why documents are registered. What is `allowed` may be given away although it is elsewhere:
    licences, quotations, boilerplate. What is `retain` is like answers that must pass: thresholds
    are calibrated on it, too."""

    FORGET = "forget"
    UNSAFE = "unsafe"
    LICENSED = "licensed"
    ALLOWED = "allowed"
    RETAIN = "retain"

    @property
    def refuses(self) -> bool:
        """Whether answers are held against such documents."""
        return self not in (Label.ALLOWED, Label.RETAIN)


class _Input(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CorpusIn(_Input):
    """A corpus as an operator registers it; only `id` is needed."""

    id: TargetId
    description: Note = ""
    label: Label = Label.FORGET
    targets: Annotated[list[TargetId], Field(max_length=1000)] = []
    scope: Scope = Scope.MATCHED
    enforcement: Enforcement = Enforcement.ENFORCE
    minimum_match: MatchWords = DEFAULT_MATCH
    max_frequency: Annotated[int, Field(strict=True, ge=1)] | None = None
    false_positive_rate: Annotated[float, Field(strict=True, ge=0.01, le=0.5)] = 0.02
    veto: StrictBool = False
    minimum_match_tokens: Annotated[int, Field(strict=True, ge=4, le=256)] | None = None

    @model_validator(mode="after")
    def _allowed_refuses_nothing(self) -> CorpusIn:
        refuses = self.targets or self.scope is Scope.ALWAYS or self.veto
        if not self.label.refuses and refuses:
            raise PydanticCustomError(
                "allowed",
                "an allowed or retain corpus refuses nothing: it takes neither targets nor scope "
                "nor veto",
            )
        return self


class CorpusChange(_Input):
    """New settings of a corpus; what is not given stays, and null is the default."""

    description: Note | None = None
    label: Label | None = None
    targets: Annotated[list[TargetId], Field(max_length=1000)] | None = None
    scope: Scope | None = None
    enforcement: Enforcement | None = None
    minimum_match: MatchWords | None = None
    max_frequency: Annotated[int, Field(strict=True, ge=1)] | None = None
    false_positive_rate: Annotated[float, Field(strict=True, ge=0.01, le=0.5)] | None = None
    veto: StrictBool | None = None
    minimum_match_tokens: Annotated[int, Field(strict=True, ge=4, le=256)] | None = None

    def of(self, corpus: CorpusIn) -> CorpusIn:
        """The corpus with the change.

        Raises:
            ValidationError: the settings do not go together.
        """
        kept = {k: v for k, v in corpus.model_dump().items() if k not in self.model_fields_set}
        given = self.model_dump(exclude_unset=True, exclude_none=True)
        return CorpusIn.model_validate(kept | given)


class DocumentsIn(_Input):
    """Documents to add, all or none."""

    documents: Annotated[list[DocumentIn], Field(min_length=1, max_length=100_000)]


class AdoptIn(_Input):
    """The name of an index in the directory that the server's settings name."""

    index: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]


class UploadLine(DocumentIn):
    """One line of a streamed upload; its text may be longer than a request's."""

    text: Annotated[
        str, StringConstraints(min_length=1, max_length=MAX_UPLOAD_TEXT), AfterValidator(clean)
    ]


class CorpusOut(BaseModel):
    """A corpus; `description` is null unless an admin asks.

    `threshold` is in nats per word: what scores above it is refused. `words` and `documents` count
    what can be matched now; `index_generation` grows with every change of the index. `vetoed` is
    what the workers' table has of it: minimum match, documents, tokens, and how many documents are
    too short for it; null where it has nothing.
    """

    id: str
    description: str | None
    label: str
    targets: list[str]
    scope: str
    enforcement: str
    minimum_match: int
    max_frequency: int | None
    false_positive_rate: float
    veto: bool
    minimum_match_tokens: int | None
    vetoed: dict[str, int] | None
    status: str
    threshold: float | None
    documents: int
    words: int
    bytes: int
    index_generation: int
    generation: int
    created_at: datetime
    updated_at: datetime


class CorpusPage(BaseModel):
    """A page of corpora by id; `next` is the cursor for `after`."""

    corpora: list[CorpusOut]
    next: str | None


class CorpusAccepted(BaseModel):
    """Stored; the job says when it is in force."""

    corpus_id: str
    job: JobOut


class DocumentRow(BaseModel):
    """A document in a list; `source` is null unless an admin asks."""

    number: int
    source: str | None
    characters: int
    created_at: datetime


class DocumentPage(BaseModel):
    """A page of documents by number; `next` is the cursor for `after`."""

    documents: list[DocumentRow]
    next: int | None


class DocumentOut(BaseModel):
    """A whole document, for admins."""

    number: int
    source: str
    metadata: dict[str, str]
    text: str


class AttributeIn(_Input):
    """A text whose sources are asked for, in all corpora or in one."""

    text: Annotated[str, StringConstraints(max_length=1_000_000), AfterValidator(clean)]
    corpus: TargetId | None = None


class SourceOut(BaseModel):
    """Where a span occurs: words `first_word` and following of a document.

    `source` names the document and `passage` shows it around the span, whose characters in it are
    `start` to `end`; null where the document has been withdrawn meanwhile.
    """

    corpus: str
    document: int
    first_word: int
    source: str | None = None
    passage: str | None = None
    start: int | None = None
    end: int | None = None


class SpanOut(BaseModel):
    """A maximal span of the text that occurs in a corpus; characters `start` to `end` of the text.

    `nats` is its best window's score per word, `raw` the published BCI of the span in nats; `count`
    how often it occurs. `refused`: an answer with it is ended there.
    """

    corpus: str
    start: int
    end: int
    words: int
    count: int
    nats: float
    raw: float
    refused: bool
    sources: list[SourceOut]


class AttributeOut(BaseModel):
    """All maximal spans of a text, in order per corpus."""

    spans: list[SpanOut]
    words: int


class BlockPage(BaseModel):
    """Answers that were ended for their provenance, newest first; `next` as for `after`."""

    blocks: list[dict[str, Any]]
    next: str | None
