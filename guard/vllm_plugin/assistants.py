"""What a worker's processor needs to subtract assistants, on either runner."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from guard.params import MAX_WEIGHT
from guard.uld.assistants import GIB, Assistants
from guard.uld.fingerprints import model_fingerprint, model_folder
from guard.uld.rules import WeightLimits

if TYPE_CHECKING:
    import torch
    from vllm.config import VllmConfig

    from guard.vocabulary import Vocabulary


def assistants_of(
    vllm_config: VllmConfig, state_dir: Path, vocabulary: Vocabulary, device: torch.device
) -> Assistants | None:
    """The worker's assistants, their memory taken; None where drafts are verified.

    A draft's row would need the assistant to read the drafts before it, which it does not.
    """
    if vllm_config.speculative_config is not None:
        return None
    model = vllm_config.model_config
    return Assistants(
        state_dir / "assistants",
        tokenizer=vocabulary.fingerprint,
        base=lambda: model_fingerprint(model_folder(model.model)),
        memory=int(float(os.environ.get("LETHEGATE_ASSISTANT_MEMORY_GIB", "0")) * GIB),
        cache_tokens=int(os.environ.get("LETHEGATE_ASSISTANT_CACHE_TOKENS", "32768")),
        rows=vllm_config.scheduler_config.max_num_seqs,
        device=device,
        dtype=model.dtype,
        limits=WeightLimits(
            float(os.environ.get("LETHEGATE_ASSISTANT_MIN_WEIGHT", "0")),
            float(os.environ.get("LETHEGATE_ASSISTANT_MAX_WEIGHT", str(MAX_WEIGHT))),
        ),
    )
