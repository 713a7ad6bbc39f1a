"""A refusal as an OpenAI response: a normal completion that declines, or an error.

The same for every target, in text, shape and length, so that a refusal tells nothing but itself.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from server.sse import DONE, encode_event

FINISH_REASON = "content_filter"
USAGE = {"prompt_tokens": 0, "total_tokens": 0, "completion_tokens": 0}


def answer_id(body: dict[str, Any], request_id: str | None) -> str:
    """The id of an answer as the engine would choose it, without its prefix."""
    return str(request_id or body.get("request_id") or uuid.uuid4().hex)


def asked_model(body: dict[str, Any], served: str) -> str:
    """The model's name as the engine would report it."""
    return body["model"] if isinstance(body.get("model"), str) else served


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refusal of one request.

    Attributes:
        chat: chat completions, not completions.
        text: what is said.
        model: the model's name as the engine would report it.
        num_choices: one refusal per choice.
        id: the response's id; `created` its time in seconds.
        usage_wanted: whether a stream ends with a usage chunk.
    """

    chat: bool
    text: str
    model: str
    num_choices: int
    id: str
    created: int
    usage_wanted: bool = False

    @classmethod
    def of(
        cls,
        body: dict[str, Any],
        text: str,
        model: str,
        request_id: str | None,
        *,
        chat: bool,
        num_choices: int,
    ) -> Refusal:
        """The refusal of a client's body."""
        given = answer_id(body, request_id)
        options = body.get("stream_options")
        return cls(
            chat=chat,
            text=text,
            model=asked_model(body, model),
            num_choices=num_choices,
            id=("chatcmpl-" if chat else "cmpl-") + given,
            created=int(time.time()),
            usage_wanted=isinstance(options, dict) and bool(options.get("include_usage")),
        )

    def completion(self) -> dict[str, Any]:
        """The whole response."""
        chat = self.chat
        said: dict[str, Any] = (
            {"message": {"role": "assistant", "content": self.text, "refusal": self.text}}
            if chat
            else {"text": self.text}
        )
        return {
            "id": self.id,
            "object": "chat.completion" if chat else "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": [
                {"index": i, **said, "logprobs": None, "finish_reason": FINISH_REASON}
                for i in range(self.num_choices)
            ],
            "system_fingerprint": None,
            "usage": dict(USAGE),
        }

    def events(self) -> Iterator[bytes]:
        """The response as a stream."""
        steps: list[dict[str, Any]] = (
            [
                {"delta": {"role": "assistant", "content": ""}, "finish_reason": None},
                {"delta": {"content": self.text, "refusal": self.text}, "finish_reason": None},
                {"delta": {}, "finish_reason": FINISH_REASON},
            ]
            if self.chat
            else [
                {"text": self.text, "finish_reason": None},
                {"text": "", "finish_reason": FINISH_REASON},
            ]
        )
        for step in steps:
            for i in range(self.num_choices):
                yield encode_event(self._chunk([{"index": i, "logprobs": None, **step}]))
        if self.usage_wanted:
            yield encode_event({**self._chunk([]), "usage": dict(USAGE)})
        yield DONE

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "chat.completion.chunk" if self.chat else "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }
