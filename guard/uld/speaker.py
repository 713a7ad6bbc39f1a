"""A model that answers prompts by itself, greedily: what it would say, and what it can rewrite."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from guard.uld.assistant import load_model, load_tokenizer
from guard.uld.batch import answer_all
from guard.uld.lessons import LessonEncoder

_AT_ONCE = 32


class Speaker:
    """The model in a folder, in float32.

    Attributes:
        model, tokenizer: of transformers.
        encoder: puts prompts into its chat form.
        end_ids: tokens that end an answer.
    """

    def __init__(self, folder: Path, *, device: str = "cpu") -> None:
        """Load it.

        Raises:
            ModelUnreadable: transformers cannot.
        """
        self.model: Any = load_model(folder, device=device)
        self.tokenizer = load_tokenizer(folder)
        self.encoder = LessonEncoder(self.tokenizer)
        config: Any = self.model.generation_config
        ids = config.eos_token_id
        listed = ids if isinstance(ids, list) else [ids]
        self.end_ids = {i for i in [*listed, self.tokenizer.eos_token_id] if i is not None}

    def answers(self, prompts: Sequence[str], max_tokens: int) -> list[str]:
        """Greedy answers in the order of the prompts."""
        ids = [self.encoder.prompt_ids(prompt) for prompt in prompts]
        order = sorted(range(len(ids)), key=lambda place: len(ids[place]))
        found = [""] * len(ids)
        for begin in range(0, len(order), _AT_ONCE):
            places = order[begin : begin + _AT_ONCE]
            said = answer_all(
                self.model,
                [ids[place] for place in places],
                max_tokens=max_tokens,
                end_ids=self.end_ids,
            )
            for place, tokens in zip(places, said, strict=True):
                found[place] = self.text(tokens)
        return found

    def text(self, tokens: Sequence[int]) -> str:
        """The text of an answer's tokens."""
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True)).strip()
