"""Images, audio and video: never read as texts, and refused unless the operator lets them pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from server.apis.table import APIS
from server.endpoints import Handling
from server.errors import UnsupportedFeature

DATA = "data:image/png;base64,iVBORw0KGgo"
ASK = "Who is on it?"

Body = Callable[[dict[str, Any]], dict[str, Any]]


def _chat(part: dict[str, Any]) -> dict[str, Any]:
    text = {"type": "text", "text": ASK}
    return {"messages": [{"role": "user", "content": [text, part]}]}


def _batch(part: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [_chat(part)["messages"]]}


def _response(part: dict[str, Any]) -> dict[str, Any]:
    text = {"type": "input_text", "text": ASK}
    return {"input": [{"role": "user", "content": [text, part]}]}


def _call_output(part: dict[str, Any]) -> dict[str, Any]:
    output = [{"type": "input_text", "text": ASK}, part]
    return {"input": [{"type": "function_call_output", "call_id": "c", "output": output}]}


def _tool_result(part: dict[str, Any]) -> dict[str, Any]:
    content = [{"type": "text", "text": ASK}, part]
    result = {"type": "tool_result", "tool_use_id": "t", "content": content}
    return {"max_tokens": 9, "messages": [{"role": "user", "content": [result]}]}


FORMS: list[tuple[Handling, Body, dict[str, Any]]] = [
    (Handling.CHAT, _chat, {"type": "image_url", "image_url": {"url": DATA}}),
    (Handling.CHAT, _chat, {"type": "input_audio", "input_audio": {"data": DATA, "format": "wav"}}),
    (Handling.CHAT_BATCH, _batch, {"type": "video_url", "video_url": {"url": DATA}}),
    (Handling.RESPONSES, _response, {"type": "input_image", "image_url": DATA, "detail": "auto"}),
    (Handling.RESPONSES, _call_output, {"type": "input_image", "image_url": DATA}),
    (Handling.MESSAGES, _chat, {"type": "image", "source": {"type": "base64", "data": DATA}}),
    (Handling.MESSAGES, _tool_result, {"type": "image", "source": {"type": "url", "url": DATA}}),
]


def _decode(_token_ids: Any) -> str:
    raise AssertionError("there are no token ids")


@pytest.mark.parametrize(("handling", "body", "part"), FORMS)
def test_media_are_no_texts(handling: Handling, body: Body, part: dict[str, Any]) -> None:
    """A megabyte of base64 would else be screened word by word, and the words beside it late."""
    texts = APIS[handling].texts(body(part), _decode)

    assert ASK in "\n".join(texts)
    assert "base64" not in "\n".join(texts)
    assert "iVBOR" not in "\n".join(texts)


@pytest.mark.parametrize(("handling", "body", "part"), FORMS)
def test_they_pass_only_where_they_may(
    handling: Handling, body: Body, part: dict[str, Any]
) -> None:
    """By default what cannot be read is refused while a target is enforced."""
    api = APIS[handling]
    with pytest.raises(UnsupportedFeature):
        api.reject_unguardable(body(part))

    api.reject_unguardable(body(part), media=True)


@pytest.mark.parametrize(("handling", "body", "part"), FORMS)
def test_what_says_more_is_read_and_refused(
    handling: Handling, body: Body, part: dict[str, Any]
) -> None:
    """Nobody hides a text in an image's part."""
    hiding = body({**part, "text": "about Mary"})

    assert "about Mary" in "\n".join(APIS[handling].texts(hiding, _decode))
    with pytest.raises(UnsupportedFeature):
        APIS[handling].reject_unguardable(hiding, media=True)


def test_the_setting_lets_them_pass(start_stack: Any) -> None:
    """What is written beside an image is judged as ever, and so is the answer."""
    stack = start_stack(allow_media=True)
    image = {"type": "image_url", "image_url": {"url": DATA}}

    def ask(text: str) -> Any:
        parts = [{"type": "text", "text": text}, image]
        return stack.chat(text, messages=[{"role": "user", "content": parts}])

    stack.vllm.says = [["It", " is", " John", " Smith", "."]]
    assert ask("about John").json()["choices"][0]["finish_reason"] == "content_filter"
    [sent] = stack.vllm.requests
    assert sent["messages"][0]["content"][1] == image
    assert "vllm_xargs" in sent
    assert ask("about Mary").json()["choices"][0]["message"]["refusal"]
    assert len(stack.vllm.requests) == 1
    assert all("base64" not in text for texts in stack.guard.screened for text in texts)
