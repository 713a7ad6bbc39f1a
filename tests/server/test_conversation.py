"""The texts of a request: nothing that reaches the model is overlooked."""

from __future__ import annotations

from typing import Any

import pytest

from server.apis.chat import Chat
from server.apis.completions import Completions
from server.errors import InvalidRequest


def _decode(token_ids: Any) -> str:
    return " ".join(f"t{token_id}" for token_id in token_ids)


def _chat(*messages: dict[str, Any], **fields: Any) -> list[str]:
    return Chat().texts({"messages": list(messages), **fields}, _decode)


def _completion(prompt: Any, **fields: Any) -> list[str]:
    return Completions().texts({"prompt": prompt, **fields}, _decode)


def test_all_roles_and_turns_are_read() -> None:
    """System prompts, earlier turns, prefilled answers and tool results all count."""
    texts = _chat(
        {"role": "system", "content": "one"},
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": "three", "reasoning": "four"},
        {"role": "tool", "tool_call_id": "call_1", "content": "five"},
        {"role": "assistant", "content": "six"},
    )

    assert texts == ["one", "two", "three", "four", "five", "call_1", "six"]


def test_a_name_split_over_parts_is_seen_whole() -> None:
    """Parts are joined with a line feed, as the engine joins them."""
    parts = [{"type": "text", "text": "who is John"}, "Smith"]

    assert _chat({"role": "user", "content": parts}) == ["who is John\nSmith"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"role": "John"}, "John"),
        ({"name": "John"}, "John"),
        ({"reasoning_content": "John"}, "John"),
        ({"John": 1}, "John"),
        ({"tool_calls": [{"function": {"name": "John", "arguments": "{}"}}]}, "John"),
        ({"tool_calls": [{"function": {"name": "f", "arguments": '{"a": "J\\u006fhn"}'}}]}, "John"),
        ({"tool_calls": [{"function": {"name": "f", "arguments": {"a": "John"}}}]}, "John"),
    ],
)
def test_every_corner_of_a_message_is_read(fields: dict[str, Any], expected: str) -> None:
    """Names, odd roles, unknown keys and tool calls (escaped or not) are evidence."""
    assert expected in "\n".join(_chat({"role": "user", "content": "", **fields}))


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function", "function": {"name": "f", "description": "John"}}]},
        {"tool_choice": {"type": "function", "function": {"name": "John"}}},
        {"documents": [{"title": "t", "text": "John"}]},
        {"chat_template_kwargs": {"persona": "John"}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"enum": ["John"]}}}},
        {"response_format": {"json_schema": {"schema": {"properties": {"John": {}}}}}},
        {"structured_outputs": {"choice": ["a", "John"]}},
        {"structured_outputs": {"regex": "(John)"}},
    ],
)
def test_everything_that_shapes_the_answer_is_read(fields: dict[str, Any]) -> None:
    """Tools, documents, template variables and forced structures are evidence too."""
    assert any("John" in text for text in _chat({"role": "user", "content": "hi"}, **fields))


def test_schemas_leave_no_noise() -> None:
    """The protocol's own words are not texts."""
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    texts = _chat({"role": "user", "content": "hi"}, response_format={"type": "json_object"})

    assert texts == ["hi"]
    assert _completion("hi", structured_outputs={"json": schema}) == ["hi", "a"]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("one", ["one"]),
        (["one", "two"], ["one", "two"]),
        ([1, 2], ["t1 t2"]),
        ([[1], [2, 3]], ["t1", "t2 t3"]),
        (None, []),
        ([], []),
    ],
)
def test_prompts_of_every_form_are_read(prompt: Any, expected: list[str]) -> None:
    """Strings, token ids and batches of either."""
    assert _completion(prompt) == expected


@pytest.mark.parametrize(
    "prompt", [5, {"a": 1}, ["a", 1], [1, "a"], [1.0], [True], [[1], "a"], [-1]]
)
def test_prompts_of_other_forms_are_refused(prompt: Any) -> None:
    """What the engine might coerce into tokens is not let through unread."""
    with pytest.raises(InvalidRequest):
        _completion(prompt)


def test_the_suffix_is_read() -> None:
    """The text after the hole is part of the prompt."""
    assert _completion("one", suffix="two") == ["one", "two"]


def test_depth_does_not_matter() -> None:
    """A deeply nested value is walked without recursion."""
    value: Any = "John"
    for _ in range(5000):
        value = [value]

    assert _chat({"role": "user", "content": value}) == ["John"]


def test_the_turns_come_last() -> None:
    """Tools and forms stand before them, so that the last texts are the last turns."""
    texts = _chat(
        {"role": "user", "content": "one"},
        {"role": "user", "content": "two"},
        tools=[{"type": "function", "function": {"name": "look"}}],
        response_format={"type": "json_schema", "json_schema": {"name": "form"}},
    )

    assert texts[-2:] == ["one", "two"]
    assert any("look" in text for text in texts[:-2])
