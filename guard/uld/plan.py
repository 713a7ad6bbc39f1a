"""How an assistant is trained: the paper's hyper-parameters with its defaults."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from guard.errors import TrainingError

# Up to this many weights in the assistant's layers, all of them are trained.
FULL_UP_TO = 100_000_000


class Weights(StrEnum):
    """Which weights of the assistant's layers are trained."""

    AUTO = "auto"
    FULL = "full"
    LORA = "lora"


class StandIns(StrEnum):
    """What a model is taught to say instead of the answers (`guard.uld.stand_ins`).

    `none` is the paper's ULD. `admit`: that it does not know. `model`: what it says of strangers,
    made up as that may be.
    """

    NONE = "none"
    ADMIT = "admit"
    MODEL = "model"


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """Defaults are the paper's (2406.08607, section 3.3) where it states them.

    Attributes:
        layers: K, how many of the target model's first layers the assistant has.
        weights: all weights of those layers and the final norm, or LoRA; `auto` takes LoRA from
            `FULL_UP_TO` weights on. Embeddings and head are never trained.
        rank, lora_alpha, lora_dropout: of LoRA, on every linear layer.
        retain_weight: beta, the weight of the uniform loss.
        learning_rate, weight_decay, warmup: AdamW; linear warm-up over that share of the steps,
            then linear decay to 0.
        paraphrases, perturbations, namesakes: per forget pair; the last are not the paper's.
        stand_ins: what is to be said instead; not the paper's either.
        bfloat16: compute in bfloat16 where torch thinks it safe; weights stay float32.
        max_length: longest prompt and answer together, in tokens; longer answers are cut.
    """

    layers: int = 8
    weights: Weights = Weights.AUTO
    rank: int = 32
    lora_alpha: float = 32.0
    lora_dropout: float = 0.0
    retain_weight: float = 6.5
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup: float = 0.1
    max_gradient: float = 1.0
    epochs: int = 10
    batch: int = 32
    paraphrases: int = 2
    perturbations: int = 2
    namesakes: int = 4
    stand_ins: StandIns = StandIns.ADMIT
    max_length: int = 512
    bfloat16: bool = False
    seed: int = 0

    def check(self, num_layers: int) -> None:
        """Refuse what cannot be trained on a model of `num_layers` layers.

        Raises:
            TrainingError: a value is out of bounds.
        """
        if not 1 <= self.layers < num_layers:
            raise TrainingError(
                f"layers must be in 1..{num_layers - 1}: the model has {num_layers} layers"
            )
        positive = ("rank", "lora_alpha", "learning_rate", "epochs", "batch", "max_length")
        wrong = [name for name in positive if getattr(self, name) <= 0]
        counts = ("paraphrases", "perturbations", "namesakes")
        others = ("retain_weight", "weight_decay", "lora_dropout", *counts)
        wrong += [name for name in others if getattr(self, name) < 0]
        if wrong:
            raise TrainingError(f"out of bounds: {', '.join(wrong)}")
