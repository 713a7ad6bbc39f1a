"""The JSON of trainings: what an operator may send and what the server answers.

Limits and defaults are `guard.uld.plan.TrainingPlan`'s. No message repeats a value.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    model_validator,
)
from pydantic_core import PydanticCustomError

from guard.uld.plan import StandIns, TrainingPlan, Weights
from server.field_types import Passage, TargetId
from server.resources import JobOut
from server.schemas import MAX_ITEMS, ExampleIn

_NOT_OF_THE_PLAN = frozenset(
    {"id", "targets", "retain", "augmentation", "augment", "own_answers"},
)
Whole = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
Count = Annotated[int, Field(strict=True, ge=0, le=64)]
Positive = Annotated[float, Field(strict=True, gt=0, le=1e6)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]


class _Input(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ParaphraseIn(_Input):
    """A rewording, or a bare string; without an answer it has the pair's."""

    prompt: Passage
    answer: Passage | None = None


def _plain_paraphrase(value: Any) -> Any:
    return {"prompt": value} if isinstance(value, str) else value


class AugmentationIn(_Input):
    """Rewordings of a forget pair, wrong answers to it, and what is to be said instead."""

    prompt: Passage
    answer: Passage
    paraphrases: Annotated[
        list[
            Annotated[
                ParaphraseIn,
                BeforeValidator(_plain_paraphrase, json_schema_input_type=ParaphraseIn | str),
            ]
        ],
        Field(max_length=64),
    ] = []
    perturbed: Annotated[list[Passage], Field(max_length=64)] = []
    stand_in: Passage | None = None


class TrainingIn(_Input):
    """An assistant to train, from registered targets' examples, and to register as `id`.

    `retain`: pairs of which it is to know nothing; `own_answers` adds what the served model itself
    says to harmless prompts. `augment` says who rewords what `augmentation` lacks.
    """

    id: TargetId
    targets: Annotated[list[TargetId], Field(min_length=1, max_length=1_000)]
    retain: Annotated[list[ExampleIn], Field(max_length=MAX_ITEMS)] = []
    augmentation: Annotated[list[AugmentationIn], Field(max_length=MAX_ITEMS)] = []
    augment: Literal["templates", "model"] = "templates"
    own_answers: StrictBool = True
    layers: Whole = 8
    weights: Weights = Weights.AUTO
    rank: Whole = 32
    lora_alpha: Positive = 32.0
    lora_dropout: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.0
    retain_weight: Annotated[float, Field(strict=True, ge=0, le=1e6)] = 6.5
    learning_rate: Positive = 1e-3
    weight_decay: Share = 0.01
    warmup: Share = 0.1
    max_gradient: Positive = 1.0
    epochs: Whole = 10
    batch: Whole = 32
    paraphrases: Count = 2
    perturbations: Count = 2
    namesakes: Count = 4
    stand_ins: StandIns = StandIns.ADMIT
    max_length: Annotated[int, Field(strict=True, ge=8, le=32_768)] = 512
    bfloat16: StrictBool = False
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**31)] = 0

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len(set(self.targets)) < len(self.targets):
            raise PydanticCustomError("twice", "targets must name each target once")
        return self

    def plan(self) -> TrainingPlan:
        """The hyper-parameters."""
        values = {n: getattr(self, n) for n in type(self).model_fields if n not in _NOT_OF_THE_PLAN}
        return TrainingPlan(**values)


class TrainingAccepted(BaseModel):
    """Stored; when the job is done, targets may name the assistant."""

    assistant_id: str
    job: JobOut


class StepOut(BaseModel):
    """A step of a training: losses in nats, null where its batch held no such lesson."""

    step: int
    steps: int
    epoch: float
    forget: float | None
    uniform: float | None
    learning_rate: float
    seconds: float
    stand_in: float | None = None


class StepPage(BaseModel):
    """A page of a training's log; `next` is the cursor for `after`, null on the last page."""

    steps: list[StepOut]
    next: int | None
