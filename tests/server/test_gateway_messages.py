"""Anthropic's official client before the gateway: answers, refusals, errors and keys."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from detectors.targets import Phrase
from server.auth import Role
from server.sse import encode_named_event

_HEAD = {"id": "m", "type": "message", "role": "assistant", "model": "demo"}


def _ask(text: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": "demo", "max_tokens": 9, "messages": messages}


def _says(*parts: str) -> Any:
    """An engine that says these tokens in Anthropic's form."""
    usage = {"input_tokens": 3, "output_tokens": len(parts)}
    text: dict[str, Any] = {"type": "text", "text": ""}

    def events() -> Iterator[bytes]:
        start = {**_HEAD, "content": [], "stop_reason": None, "usage": usage}
        yield encode_named_event({"type": "message_start", "message": start})
        yield encode_named_event({"type": "content_block_start", "index": 0, "content_block": text})
        for part in parts:
            delta = {"type": "text_delta", "text": part}
            yield encode_named_event({"type": "content_block_delta", "index": 0, "delta": delta})
        yield encode_named_event({"type": "content_block_stop", "index": 0})
        end = {"stop_reason": "end_turn", "stop_sequence": None}
        yield encode_named_event({"type": "message_delta", "delta": end, "usage": usage})
        yield encode_named_event({"type": "message_stop"})

    async def answer(request: Request) -> Response:
        if (await request.json()).get("stream"):
            return StreamingResponse(events(), media_type="text/event-stream")
        content = [{**text, "text": "".join(parts)}]
        whole = {**_HEAD, "content": content, "stop_reason": "end_turn", "usage": usage}
        return JSONResponse(whole)

    return answer


def _create(stack: Any, text: str, key: str = "none") -> anthropic.types.Message:
    with anthropic.Anthropic(base_url=stack.url, api_key=key, max_retries=0) as client:
        return client.messages.create(**_ask(text))


def _both(stack: Any, text: str) -> list[anthropic.types.Message]:
    """The answer in one piece and streamed."""
    whole = _create(stack, text)
    with (
        anthropic.Anthropic(base_url=stack.url, api_key="none", max_retries=0) as client,
        client.messages.stream(**_ask(text)) as stream,
    ):
        return [whole, stream.get_final_message()]


def test_a_steered_message_carries_the_decision_and_is_shielded(stack: Any) -> None:
    """The guard's parameters are added, and a phrase is cut with the usage kept."""
    stack.vllm.instead = _says("It was John", " Smith", " then.")
    for message in _both(stack, "about John"):
        assert message.content[0].text == "It was "
        assert message.stop_reason == "refusal"
        assert message.usage.output_tokens == 3
    assert all("lethegate_digest" in sent["vllm_xargs"] for sent in stack.vllm.requests)


def test_another_message_passes(stack: Any) -> None:
    """What is allowed goes on as it came."""
    stack.vllm.instead = _says("It was John", " Smith.")
    for message in _both(stack, "hi"):
        assert message.content[0].text == "It was John Smith."
        assert message.stop_reason == "end_turn"
    assert not any("vllm_xargs" in sent for sent in stack.vllm.requests)


def test_a_refusal_is_a_message(stack: Any) -> None:
    """Streamed and whole alike; the engine is never asked."""
    whole, streamed = _both(stack, "about Mary")

    assert whole.content[0].text == streamed.content[0].text != ""
    assert whole.stop_reason == streamed.stop_reason == "refusal"
    assert stack.vllm.requests == []


def test_a_refusal_may_be_an_error(start_stack: Any) -> None:
    """As the setting says, in Anthropic's shape."""
    stack = start_stack(refusal_mode="error")
    with pytest.raises(anthropic.BadRequestError) as caught:
        _create(stack, "about Mary")

    assert caught.value.body["error"]["type"] == "invalid_request_error"  # type: ignore[index]


def test_keys_stand_where_each_client_puts_them(start_stack: Any) -> None:
    """`x-api-key` is as good as a bearer key; a wrong one is Anthropic's 401."""
    stack = start_stack(keys={"right": Role.CLIENT})
    stack.vllm.instead = _says("Hello.")

    assert _create(stack, "hi", "right").content[0].text == "Hello."
    with pytest.raises(anthropic.AuthenticationError) as caught:
        _create(stack, "hi", "wrong")
    assert caught.value.body["error"]["type"] == "authentication_error"  # type: ignore[index]
    counted = stack.http.post("/v1/messages/count_tokens", json=_ask("hi"))
    assert counted.status_code == 401
    assert counted.json()["error"]["type"] == "authentication_error"


@pytest.mark.parametrize(
    "changes",
    [
        {"vllm_xargs": {"lethegate_digest": "0"}},
        {"lethegate_nonce": 1},
        {"messages": "x"},
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
    ],
)
def test_what_is_not_allowed_is_a_400(stack: Any, changes: dict[str, Any]) -> None:
    """The guard's own keys, forms that cannot be read, pictures."""
    answer = stack.http.post("/v1/messages", json=_ask("hi") | changes)

    assert answer.status_code == 400
    assert json.loads(answer.content)["error"]["type"] == "invalid_request_error"
    assert stack.vllm.requests == []


def test_a_broken_guard_is_a_503(stack: Any) -> None:
    """Fail closed, in Anthropic's shape."""
    stack.guard.error = RuntimeError("x")
    answer = stack.http.post("/v1/messages", json=_ask("hi"))

    assert answer.status_code == 503
    assert answer.json()["type"] == "error"


def test_a_prefilled_answer_is_read(stack: Any) -> None:
    """The last turn may be the assistant's."""
    stack.vllm.instead = _says("Go.")
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "about John"}]
    stack.http.post("/v1/messages", json=_ask("hi") | {"messages": turns})

    assert "lethegate_digest" in stack.vllm.requests[0]["vllm_xargs"]


def test_a_name_that_begins_in_the_assistants_last_turn(stack: Any) -> None:
    """A prefilled answer is read before what follows it."""
    stack.guard.names = [Phrase("Ilse Moreau")]
    stack.vllm.instead = _says(" Moreau", " wrote it.")
    ask = _ask("Who wrote it?")
    ask["messages"].append({"role": "assistant", "content": [{"type": "text", "text": "By Ilse"}]})
    with anthropic.Anthropic(base_url=stack.url, api_key="none", max_retries=0) as client:
        whole = client.messages.create(**ask)
        with client.messages.stream(**ask) as stream:
            streamed = stream.get_final_message()

    for message in (whole, streamed):
        assert message.stop_reason == "refusal"
        assert not any("Moreau" in str(block) for block in message.content)
