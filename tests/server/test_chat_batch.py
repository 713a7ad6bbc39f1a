"""A batch of conversations: every one is read, and every one gets its choice."""

from __future__ import annotations

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
