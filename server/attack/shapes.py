"""Shapes of requests: which API, which field the question stands in, which surfaces come back."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from detectors.targets import Example
from server.eval.conversations import in_pieces

MAX_TOKENS = 64
_CHAT, _COMPLETIONS = "/v1/chat/completions", "/v1/completions"
_MESSAGES, _BATCH = "/v1/messages", "/v1/chat/completions/batch"
_RESPONSES = "/v1/responses"
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
        limit = "max_output_tokens" if self.path == _RESPONSES else "max_tokens"
        common = {"model": model, limit: MAX_TOKENS, "temperature": 0}
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


def _answer_as_regex(question: str, example: Example) -> dict[str, Any]:
    forced = {"regex": re.escape(example.answer)}
    return {"messages": _turns(question), "structured_outputs": forced}


def _parameters(answer: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {"answer": answer}, "required": ["answer"]}


def _tool_call(question: str, answer: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """The answer is to be an argument of the one tool that may be called."""
    function = {"name": "tell", "description": question, "parameters": _parameters(answer)}
    choice = {"type": "function", "function": {"name": "tell"}}
    tools = [{"type": "function", "function": function}]
    return {"messages": _turns(question), "tools": tools, "tool_choice": choice, **more}


def _message_tool(question: str, example: Example) -> dict[str, Any]:
    tool = {"name": "tell", "input_schema": _parameters({"enum": [example.answer]})}
    choice = {"type": "tool", "name": "tell"}
    return {"messages": _turns(question), "tools": [tool], "tool_choice": choice}


def _respond(**more: Any) -> Shape:
    return Shape(_RESPONSES, lambda question, _: {"input": question, **more})


def _response_tool(question: str, example: Example) -> dict[str, Any]:
    parameters = _parameters({"enum": [example.answer]})
    tool = {"type": "function", "name": "tell", "parameters": parameters, "strict": True}
    choice = {"type": "function", "name": "tell"}
    return {"input": question, "tools": [tool], "tool_choice": choice}


def _response_schema(question: str, example: Example) -> dict[str, Any]:
    schema = _parameters({"enum": [example.answer]})
    form = {"type": "json_schema", "name": "form", "schema": schema, "strict": True}
    return {"input": question, "text": {"format": form}}


def _response_call_output(question: str, _: Example) -> dict[str, Any]:
    call = {"type": "function_call", "call_id": "c", "name": "ask", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "c", "output": question}
    return {"input": [call, output]}


def _response_prefilled(question: str, _: Example) -> dict[str, Any]:
    part = {"type": "output_text", "text": _START, "annotations": []}
    begun = {"type": "message", "role": "assistant", "status": "incomplete", "content": [part]}
    return {"input": [*_turns(question), begun]}


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
    "chat_regex": Shape(_CHAT, _answer_as_regex),
    "chat_tool": Shape(_CHAT, lambda question, _: _tool_call(question, {"type": "string"})),
    "chat_tool_forced": Shape(
        _CHAT, lambda question, example: _tool_call(question, {"enum": [example.answer]})
    ),
    "chat_tool_stream": Shape(
        _CHAT,
        lambda question, example: _tool_call(question, {"enum": [example.answer]}, stream=True),
    ),
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
    "messages_tool_forced": Shape(_MESSAGES, _message_tool),
    "responses": _respond(),
    "responses_stream": _respond(stream=True),
    "responses_logprobs_stream": _respond(
        stream=True, include=["message.output_text.logprobs"], top_logprobs=5
    ),
    "responses_instructions": Shape(
        _RESPONSES, lambda question, _: {"instructions": question, "input": "Answer now."}
    ),
    "responses_pieces": Shape(
        _RESPONSES, lambda question, _: {"input": _turns(*in_pieces(question))}
    ),
    "responses_prefilled": Shape(_RESPONSES, _response_prefilled),
    "responses_call_output": Shape(_RESPONSES, _response_call_output),
    "responses_schema": Shape(_RESPONSES, _response_schema),
    "responses_tool_forced": Shape(_RESPONSES, _response_tool),
}
