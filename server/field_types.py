"""The kinds of fields that the admin API's JSON is made of, with their limits.

No message repeats a value.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, Field, StringConstraints
from pydantic_core import PydanticCustomError

from detectors.normaliser import fold

MAX_LABELS = 64


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
