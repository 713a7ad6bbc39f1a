"""Shapes of requests: which API, which field the question stands in, which surfaces come back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from detectors.targets import Example
from server.eval.conversations import in_pieces

MAX_TOKENS = 64
_CHAT, _COMPLETIONS = "/v1/chat/completions", "/v1/completions"
_MESSAGES, _BATCH = "/v1/messages", "/v1/chat/completions/batch"
_START = "The answer to that is"


@dataclass(frozen=True, slots=True)
class Shape:
    """One shape: the route, and the body's fields for a question and its example.

    `as_tokens`: the prompt is sent as token ids, which the server itself is asked for.
    """

    path: str
    fields: Callable[[str, Example], dict[str, Any]]
    as_tokens: bool = False

    def body(self, model: str, question: str, example: Example) -> dict[str, Any]:
        """The whole body, greedy."""
        common = {"model": model, "max_tokens": MAX_TOKENS, "temperature": 0}
        return common | self.fields(question, example)


def _turns(*texts: str) -> list[dict[str, Any]]:
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]


def _chat(**more: Any) -> Shape:
    return Shape(_CHAT, lambda question, _: {"messages": _turns(question), **more})


def _answer_in_choices(question: str, example: Example) -> dict[str, Any]:
    choices = [example.answer, "I do not know."]
    return {"messages": _turns(question), "structured_outputs": {"choice": choices}}


def _answer_as_schema(question: str, example: Example) -> dict[str, Any]:
    properties = {"answer": {"enum": [example.answer]}}
    schema = {"type": "object", "properties": properties, "required": ["answer"]}
    form = {"type": "json_schema", "json_schema": {"name": "form", "schema": schema}}
    return {"messages": _turns(question), "response_format": form}


def _tool_result(question: str, _: Example) -> dict[str, Any]:
    result = {"type": "tool_result", "tool_use_id": "t", "content": question}
    return {"messages": [{"role": "user", "content": [result]}]}


SHAPES: Mapping[str, Shape] = {
    "chat": _chat(),
    "chat_stream": _chat(stream=True),
    "chat_choices": _chat(n=3, temperature=0.8, seed=1),
    "chat_choices_stream": _chat(n=3, temperature=0.8, seed=1, stream=True),
    "chat_logprobs": _chat(logprobs=True, top_logprobs=5),
    "chat_logprobs_stream": _chat(logprobs=True, top_logprobs=5, stream=True),
    "chat_token_ids": _chat(return_token_ids=True),
    "chat_system": Shape(
        _CHAT,
        lambda question, _: {
            "messages": [{"role": "system", "content": question}, *_turns("Answer now.")]
        },
    ),
    "chat_pieces": Shape(_CHAT, lambda question, _: {"messages": _turns(*in_pieces(question))}),
    "chat_prefilled": Shape(
        _CHAT,
        lambda question, _: {
            "messages": _turns(question, _START),
            "continue_final_message": True,
            "add_generation_prompt": False,
        },
    ),
    "chat_choice": Shape(_CHAT, _answer_in_choices),
    "chat_schema": Shape(_CHAT, _answer_as_schema),
    "chat_batch": Shape(
        _BATCH, lambda question, _: {"messages": [_turns("Hello."), _turns(question)]}
    ),
    "completions": Shape(_COMPLETIONS, lambda question, _: {"prompt": question}),
    "completions_stream": Shape(
        _COMPLETIONS, lambda question, _: {"prompt": question, "stream": True}
    ),
    "completions_tokens": Shape(
        _COMPLETIONS, lambda question, _: {"prompt": question}, as_tokens=True
    ),
    "completions_many": Shape(
        _COMPLETIONS, lambda question, _: {"prompt": ["Hello.", question], "logprobs": 3}
    ),
    "messages": Shape(_MESSAGES, lambda question, _: {"messages": _turns(question)}),
    "messages_stream": Shape(
        _MESSAGES, lambda question, _: {"messages": _turns(question), "stream": True}
    ),
    "messages_system": Shape(
        _MESSAGES, lambda question, _: {"system": question, "messages": _turns("Answer now.")}
    ),
    "messages_tool_result": Shape(_MESSAGES, _tool_result),
}
