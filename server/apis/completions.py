"""`/v1/completions`."""

from __future__ import annotations

from typing import Any

from server.admission import reject_completion
from server.apis.openai_answers import OpenAiAnswers
from server.apis.openai_form import choices_per_prompt
from server.conversation import Decode, completion_texts, prompt_texts
from server.prefixes import Prefixes


class Completions(OpenAiAnswers):
    """One prompt or a list of them, as text or as token ids."""

    chat = False
    prompt_field = "prompt"

    def texts(self, body: dict[str, Any], decode: Decode) -> list[str]:
        """The prompts, token ids decoded, and forms."""
        return completion_texts(body, decode)

    def prefixes(self, body: dict[str, Any], decode: Decode) -> Prefixes:
        """The prompts."""
        texts = list(prompt_texts(body.get("prompt"), decode))
        return Prefixes(texts, choices_per_prompt(body))

    def reject_unguardable(self, body: dict[str, Any], *, media: bool = False) -> None:
        """Refuse what cannot be guarded; there are no media in prompts."""
        reject_completion(body)

    def num_choices(self, body: dict[str, Any]) -> int:
        """As many as asked for, for each prompt."""
        prompt = body.get("prompt")
        many = isinstance(prompt, list) and bool(prompt) and type(prompt[0]) is not int
        return choices_per_prompt(body) * (len(prompt) if many and isinstance(prompt, list) else 1)
