"""Requests of the Responses API: every text is read, and what an answer goes on with."""

from __future__ import annotations

from typing import Any

import pytest

from server.apis.response_items import continued
from server.apis.responses import Responses
from server.errors import InvalidRequest, UnsupportedFeature

Item = dict[str, Any]


def _item(kind: str, index: int, text: str) -> Item:
    head = {"id": f"i{index}", "type": kind, "status": "completed"}
    if kind == "function_call":
        return {**head, "call_id": "c", "name": "f", "namespace": None, "arguments": text}
    if kind == "reasoning":
        return {**head, "summary": [], "content": [{"type": "reasoning_text", "text": text}]}
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": None}
    return {**head, "role": "assistant", "content": [part]}


def _texts(**body: Any) -> list[str]:
    return Responses().texts(body, lambda _: "")


def test_every_text_is_read() -> None:
    """Instructions, tools, forms, and every kind of item, turns last and in order."""
    call = {
        "type": "function_call",
        "call_id": "cid",
        "name": "look",
        "arguments": '{"q": "\\u0041"}',
    }
    said = {"type": "output_text", "text": "John", "annotations": [], "logprobs": [{"token": "no"}]}
    texts = _texts(
        instructions="be kind",
        tools=[{"type": "function", "name": "look", "description": "to see"}],
        text={"format": {"type": "json_schema", "schema": {"enum": ["an answer"]}}},
        input=[
            {"role": "user", "content": [{"type": "input_text", "text": "Who is"}, {"text": "x"}]},
            {
                "type": "reasoning",
                "id": "r",
                "summary": [{"text": "s"}],
                "content": [{"text": "t"}],
            },
            {"type": "message", "role": "assistant", "content": [said]},
            call,
            {"type": "function_call_output", "call_id": "cid", "output": "a result"},
        ],
    )

    assert texts[0] == "an answer"
    assert texts[1:4] == ["look\nto see", "be kind", "Who is\nx"]
    assert texts[4:7] == ["t", "s", "John"]
    assert "A" in texts[7]
    assert texts[8:] == ["a result", "cid"]
    assert _texts(input="hi") == ["hi"]


@pytest.mark.parametrize("given", [None, 7, ["hi"], [{"role": "tool", "content": "x"}]])
def test_an_input_that_cannot_be_read_is_refused(given: Any) -> None:
    """Neither text nor items."""
    with pytest.raises(InvalidRequest):
        _texts(input=given)


@pytest.mark.parametrize(
    "fields",
    [
        {"previous_input_messages": [{"role": "user"}]},
        {"enable_response_messages": True},
        {"prompt": {"id": "p"}},
        {"tools": [{"type": "mcp", "server_label": "x"}]},
        {"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "web_search"}]}]},
        {"input": [{"type": "item_reference", "id": "x"}]},
        {"input": [{"type": "reasoning", "id": "r", "summary": [], "encrypted_content": "x"}]},
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
        {"input": [{"type": "function_call_output", "call_id": "c", "output": [{"type": "x"}]}]},
        {"input": [{"type": "reasoning", "id": "r", "summary": [], "status": "in_progress"}]},
        {"chat_template_kwargs": {"chat_template": "x"}},
    ],
)
def test_what_cannot_be_guarded_is_refused(fields: dict[str, Any]) -> None:
    """Naming the field."""
    with pytest.raises(UnsupportedFeature):
        Responses().reject_unguardable({"input": "hi", **fields})


def test_what_an_answer_goes_on_with() -> None:
    """A last message of the model's, or any that is marked as unfinished."""

    def prefix(*items: Item) -> str:
        return Responses().prefixes({"input": list(items)}, lambda _: "").of(0)

    part = [{"type": "output_text", "text": "It was"}]
    assert prefix({"role": "assistant", "content": part}) == "it was"
    assert prefix({"role": "user", "content": "hm", "status": "incomplete"}) == "hm"
    assert prefix({"role": "user", "content": "hm"}) == ""


def test_a_conversation_goes_on() -> None:
    """Messages and whole calls are repeated; reasoning and what was cut are not."""
    output = [
        _item("reasoning", 0, "t"),
        _item("message", 1, "said"),
        _item("message", 2, ""),
        _item("function_call", 3, "{}"),
        {**_item("function_call", 4, "{"), "status": "incomplete"},
    ]
    items = continued(
        [{"role": "user", "content": "a"}], output, [{"role": "user", "content": "b"}]
    )

    assert [item.get("content") for item in items] == ["a", "said", None, "b"]
    assert items[2] == {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
