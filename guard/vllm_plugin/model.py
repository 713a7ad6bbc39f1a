"""What the adapters need to know of the served model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from guard.vocabulary import Vocabulary


def vocabulary_of(model: Any) -> Vocabulary:
    """The bytes of its tokenizer; `model` is vLLM's `ModelConfig`."""
    from guard.vocabulary import Vocabulary

    return Vocabulary.load(
        model.tokenizer, revision=model.tokenizer_revision, trust=model.trust_remote_code
    )


def end_ids_of(model: Any) -> list[int]:
    """End-of-text ids, those of the generation config first: vLLM stops at them."""
    config = model.try_get_generation_config()
    ids = config.get("eos_token_id", getattr(model.hf_text_config, "eos_token_id", None))
    return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
