"""A batch of conversations: every one is read, and every one gets its choice."""

from __future__ import annotations

import json
from typing import Any

import pytest

from server.apis.chat import ChatBatch
from server.errors import InvalidRequest, UnsupportedFeature


def _batch(*texts: Any, **fields: Any) -> dict[str, Any]:
    return {"messages": [[{"role": "user", "content": text}] for text in texts], **fields}


def test_the_texts_of_all_conversations_are_read() -> None:
    """One telling conversation among many is enough."""
    assert ChatBatch().texts(_batch("one", "two"), lambda _: "") == ["one", "two"]


def test_each_conversation_has_a_choice_in_a_refusal() -> None:
    """As in the engine's answers."""
    refusal = ChatBatch().refusal(_batch("one", "two", "three"), "no", "m", None).completion()

    assert [choice["index"] for choice in refusal["choices"]] == [0, 1, 2]


@pytest.mark.parametrize("messages", ["x", None, ["x"], [[1]], [{"role": "user"}]])
def test_other_forms_are_refused(messages: Any) -> None:
    """What is not a list of conversations is not let through unread."""
    with pytest.raises(InvalidRequest):
        ChatBatch().texts({"messages": messages}, lambda _: "")


@pytest.mark.parametrize("field", ["prompt_logprobs", "echo", "use_beam_search"])
def test_what_cannot_be_guarded_is_refused(field: str) -> None:
    """As in a chat, in whichever conversation it stands."""
    image = [{"type": "image_url", "image_url": {"url": "data:"}}]
    with pytest.raises(UnsupportedFeature):
        ChatBatch().reject_unguardable(_batch("one", **{field: True}))
    with pytest.raises(UnsupportedFeature):
        ChatBatch().reject_unguardable(_batch("one", image))


def _post(stack: Any, *texts: str, **fields: Any) -> Any:
    body = {"model": "demo", **_batch(*texts, **fields)}
    return stack.http.post("/v1/chat/completions/batch", json=body)


def test_one_telling_conversation_steers_the_batch(stack: Any) -> None:
    """Every choice is shielded, whichever conversation gave the reason."""
    stack.vllm.says = [["It was", " John", " Smith."], ["Hello."]]
    choices = _post(stack, "hi", "about John").json()["choices"]

    assert "lethegate_digest" in stack.vllm.requests[0]["vllm_xargs"]
    assert [choice["finish_reason"] for choice in choices] == ["content_filter", "stop"]
    assert "Smith" not in json.dumps(choices)


def test_a_prefilled_answer_is_read(stack: Any) -> None:
    """What is to be gone on with counts as evidence."""
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "about John"}]
    body = {"model": "demo", "messages": [turns], "continue_final_message": True}
    stack.http.post("/v1/chat/completions/batch", json=body)

    assert "lethegate_digest" in stack.vllm.requests[0]["vllm_xargs"]


@pytest.mark.parametrize("field", [{"vllm_xargs": {"lethegate_nonce": 1}}, {"lethegate_x": 1}])
def test_the_guards_own_keys_are_refused(stack: Any, field: dict[str, Any]) -> None:
    """As everywhere."""
    assert _post(stack, "hi", **field).status_code == 400
    assert stack.vllm.requests == []


def test_a_refused_batch_is_a_completion(stack: Any) -> None:
    """One refusal for each conversation."""
    choices = _post(stack, "hi", "about Mary").json()["choices"]

    assert [choice["finish_reason"] for choice in choices] == ["content_filter"] * 2
