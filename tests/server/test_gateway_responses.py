"""OpenAI's official client before the gateway: responses, and stored ones."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import openai
import pytest

from detectors.targets import Phrase
from guard.decision import Verdict
from server.auth import Role
from server.response_store import ResponseStore, StoredResponse
from server.response_turns import ResponseTurns
from server.sse import encode_json
from tests.server.responses_engine import client_of, message, says, whole_and_streamed


def test_a_steered_response_carries_the_decision_and_is_shielded(stack: Any) -> None:
    """The guard's parameters are added, and a phrase is cut with the usage kept."""
    stack.vllm.instead = says("It was John", " Smith", " then.")
    for answer in whole_and_streamed(stack, "about John"):
        assert answer.output_text == "It was "
        assert answer.status == "incomplete"
        assert answer.incomplete_details.reason == "content_filter"
        assert answer.usage.output_tokens == 3
    assert all("lethegate_digest" in sent["vllm_xargs"] for sent in stack.vllm.requests)


def test_another_response_passes(stack: Any) -> None:
    """What is allowed goes on as it came, to the byte."""
    stack.vllm.instead = says("It was John", " Smith.")
    for answer in whole_and_streamed(stack, "hi"):
        assert (answer.output_text, answer.status) == ("It was John Smith.", "completed")
    raw = json.dumps({"model": "demo", "input": "hi"}, indent=1).encode()
    stack.http.post("/v1/responses", content=raw, headers={"content-type": "application/json"})
    assert stack.vllm.raw_bodies[-1] == raw


def test_a_refusal_is_a_response(stack: Any) -> None:
    """Streamed and whole alike, stored like any other; the engine is never asked."""
    whole, streamed = whole_and_streamed(stack, "about Mary")

    assert whole.output_text == streamed.output_text != ""
    assert whole.status == streamed.status == "incomplete"
    assert whole.incomplete_details.reason == "content_filter"
    assert stack.vllm.requests == []
    with client_of(stack) as client:
        assert client.responses.retrieve(whole.id).output_text == whole.output_text


def test_the_guard_reads_the_earlier_turns(stack: Any) -> None:
    """The engine gets the conversation whole, with what the client was shown; the answer links."""
    stack.vllm.instead = says("It was John", " Smith", " then.")
    with client_of(stack) as client:
        first = client.responses.create(model="demo", input="about John")
        second = client.responses.create(
            model="demo", input="Go on.", previous_response_id=first.id
        )
        third = client.responses.create(
            model="demo",
            input=[{"role": "user", "content": "More."}],
            previous_response_id=second.id,
        )
    said = [item["content"] for item in stack.vllm.requests[-1]["input"]]

    assert said == ["about John", "It was ", "Go on.", "It was ", "More."]
    assert "previous_response_id" not in stack.vllm.requests[-1]
    assert stack.guard.screened[-1] == said
    assert "lethegate_digest" in stack.vllm.requests[-1]["vllm_xargs"]
    assert (second.previous_response_id, third.previous_response_id) == (first.id, second.id)


def test_a_streamed_response_links_and_is_stored(stack: Any) -> None:
    """As a whole one."""
    stack.vllm.instead = says("Hello", " there.")
    first, streamed = whole_and_streamed(stack, "hi")
    again = whole_and_streamed(stack, "hi", previous_response_id=streamed.id)
    with client_of(stack) as client:
        stored = client.responses.retrieve(again[1].id)

    assert [answer.previous_response_id for answer in again] == [streamed.id] * 2
    assert stored.previous_response_id == streamed.id
    assert stored.output_text == "Hello there."
    assert stored.id != first.id


def test_a_stored_response_is_judged_under_the_policy_of_the_day(stack: Any) -> None:
    """What was registered since is cut, or refused."""
    stack.vllm.instead = says("It was Jane", " Doe", " then.")
    with client_of(stack) as client:
        answer = client.responses.create(model="demo", input="about Jane")
        assert answer.output_text == "It was Jane Doe then."
        stack.guard.names = [Phrase("Jane Doe")]
        cut = client.responses.retrieve(answer.id)
        stack.guard.verdicts["about Jane"] = Verdict.REFUSE
        refused = client.responses.retrieve(answer.id)
        stack.guard.error = RuntimeError("x")
        with pytest.raises(openai.InternalServerError) as caught:
            client.responses.retrieve(answer.id)

    assert (cut.id, cut.output_text, cut.status) == (answer.id, "It was ", "incomplete")
    assert (refused.id, refused.status) == (answer.id, "incomplete")
    assert "Jane" not in refused.output_text
    assert caught.value.code == "guard_unavailable"


def test_nobody_reads_what_another_key_stored(start_stack: Any) -> None:
    """Not by retrieving, not by going on, not by cancelling; without a key nothing at all."""
    stack = start_stack(keys={"one": Role.CLIENT, "two": Role.CLIENT})
    stack.vllm.instead = says("Hello.")
    with client_of(stack, "one") as one, client_of(stack, "two") as two, client_of(stack) as none:
        id_ = one.responses.create(model="demo", input="hi").id
        assert one.responses.retrieve(id_).id == id_
        for call in (
            lambda: two.responses.retrieve(id_),
            lambda: two.responses.cancel(id_),
            lambda: two.responses.create(model="demo", input="hi", previous_response_id=id_),
        ):
            with pytest.raises(openai.NotFoundError):
                call()
        with pytest.raises(openai.AuthenticationError):
            none.responses.retrieve(id_)


def test_what_is_not_stored_is_not_found(start_stack: Any) -> None:
    """By the client's wish, by the operator's, or because others came since."""
    for fields, settings in (({"store": False}, {}), ({}, {"response_store_bytes": 0})):
        stack = start_stack(**settings)
        stack.vllm.instead = says("Hello.")
        with client_of(stack) as client:
            id_ = client.responses.create(model="demo", input="hi", **fields).id
            with pytest.raises(openai.NotFoundError):
                client.responses.retrieve(id_)
    store = ResponseStore(100, 1000)
    for number in range(4):
        store.put("a", str(number), StoredResponse(b"x" * 20, b"y" * 20))
    store.put("a", "3", StoredResponse(b"x" * 20, b"y" * 21))
    assert [store.get("a", str(n)) is not None for n in range(4)] == [False, False, True, True]
    store.put("a", "4", StoredResponse(b"x" * 101, b""))
    assert store.get("a", "4") is None
    assert store.get("a", "3") is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"vllm_xargs": {"lethegate_digest": "0"}},
        {"input": 7},
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
        {"tools": [{"type": "web_search"}]},
        {"background": True, "stream": True},
        {"background": True, "store": False},
        {"previous_response_id": 7},
    ],
)
def test_what_is_not_allowed_is_a_400(stack: Any, changes: dict[str, Any]) -> None:
    """The guard's own keys, forms that cannot be read, tools that the engine would run."""
    answer = stack.http.post("/v1/responses", json={"model": "demo", "input": "hi"} | changes)

    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert stack.vllm.requests == []


def test_all_turns_together_are_no_longer_than_a_body_may_be(start_stack: Any) -> None:
    """A short body does not carry in by its link what could not be sent."""
    stack = start_stack(max_body_bytes=4000)
    stack.vllm.instead = says("Hello.")
    with client_of(stack) as client:
        first = client.responses.create(model="demo", input="x" * 3000)
        second = client.responses.create(model="demo", input="y", previous_response_id=first.id)
        for background in (False, True):
            with pytest.raises(openai.APIStatusError) as caught:
                client.responses.create(
                    model="demo",
                    input="z" * 1000,
                    previous_response_id=second.id,
                    background=background,
                )
            assert (caught.value.status_code, caught.value.code) == (413, "body_too_large")
            assert caught.value.param == "previous_response_id"
    assert len(stack.vllm.requests) == 2


def test_all_turns_together_are_what_a_key_pays_for(start_stack: Any) -> None:
    """The tokens of the joined conversation are reserved, not those of the request's own bytes."""
    stack = start_stack(keys={"k": Role.CLIENT}, tokens_per_minute=10_000)
    stack.vllm.instead = says("Hello.")
    with client_of(stack, "k") as client:
        first = client.responses.create(model="demo", input="x" * 24_000, max_output_tokens=1)
        kept = {"previous_response_id": first.id, "max_output_tokens": 1}
        with pytest.raises(openai.RateLimitError) as caught:
            client.responses.create(model="demo", input="y" * 16_000, **kept)
        answer = client.responses.with_raw_response.create(model="demo", input="z", **kept)
    assert "this request may need" in caught.value.message
    assert int(answer.headers["x-ratelimit-remaining-tokens"]) < 10_000 - 6_000


def test_long_turns_are_joined_beside_the_event_loop() -> None:
    """As long bodies are parsed; short ones are not worth a thread."""
    threads: list[int] = []

    class Told(dict[str, Any]):
        def items(self) -> Any:
            threads.append(threading.get_ident())
            return super().items()

    async def joined(text: str) -> None:
        store = ResponseStore(2**20, 2**20)
        answer = encode_json({"status": "completed", "output": [message("Hello.")]})
        store.put("a", "r", StoredResponse(encode_json({"input": text}), answer))
        body = Told(input="y", previous_response_id="r")
        turn = await ResponseTurns(store, "demo").begin("a", b"{}", body, 2**20)
        said = [item["content"] for item in turn.body["input"]]
        assert said == [text, "Hello.", "y"]
        assert json.loads(turn.raw) == turn.body

    asyncio.run(joined("x"))
    assert set(threads) == {threading.get_ident()}
    threads.clear()
    asyncio.run(joined("x" * 300_000))
    assert threads
    assert threading.get_ident() not in threads


def test_a_stored_response_is_not_streamed(stack: Any) -> None:
    """Its events are not kept."""
    stack.vllm.instead = says("Hello.")
    with client_of(stack) as client:
        id_ = client.responses.create(model="demo", input="hi").id
        with pytest.raises(openai.BadRequestError):
            client.responses.retrieve(id_, stream=True)
