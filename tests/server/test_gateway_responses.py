"""OpenAI's official client before the gateway: responses, stored ones, and the background."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response as Answer
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from detectors.targets import Phrase
from guard.decision import Verdict
from server.auth import Role
from server.response_store import ResponseStore, StoredResponse
from server.response_turns import ResponseTurns
from server.sse import encode_json, encode_named_event

_USAGE = {"input_tokens": 3, "output_tokens": 3, "total_tokens": 6}
_PART = {"type": "output_text", "annotations": [], "logprobs": []}


def _item(text: str) -> dict[str, Any]:
    content = [{**_PART, "text": text}]
    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed"}
    return {**item, "content": content}


def _events(head: dict[str, Any], parts: tuple[str, ...]) -> Iterator[bytes]:
    at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    whole = _item("".join(parts))
    begun = {**whole, "content": [], "status": "in_progress"}
    deltas = [
        {"type": "response.output_text.delta", **at, "delta": p, "logprobs": []} for p in parts
    ]
    done = {**head, "output": [whole], "status": "completed", "usage": _USAGE}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": head},
        {"type": "response.output_item.added", "output_index": 0, "item": begun},
        {"type": "response.content_part.added", **at, "part": {**_PART, "text": ""}},
        *deltas,
        {"type": "response.output_item.done", "output_index": 0, "item": whole},
        {"type": "response.completed", "response": done},
    ]
    for number, event in enumerate(events):
        yield encode_named_event({**event, "sequence_number": number})


def _says(*parts: str, seconds: float = 0.0) -> Any:
    """An engine that says these tokens in the Responses API's form."""

    async def answer(request: Request) -> Response:
        body = await request.json()
        id_ = body.get("request_id") or f"resp_{time.monotonic_ns()}"
        head = {"id": id_, "object": "response", "model": "demo", "created_at": 1, "output": []}
        head |= {"status": "in_progress", "background": False, "incomplete_details": None}
        head |= {"previous_response_id": body.get("previous_response_id"), "usage": None}
        head |= {"instructions": None, "tools": [], "parallel_tool_calls": True}
        await asyncio.sleep(seconds)
        if body.get("stream"):
            return StreamingResponse(_events(head, parts), media_type="text/event-stream")
        output = {"output": [_item("".join(parts))], "status": "completed", "usage": _USAGE}
        return JSONResponse({**head, **output})

    return answer


def _client(stack: Any, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{stack.url}/v1", api_key=key, max_retries=0)


def _both(stack: Any, text: str, **fields: Any) -> list[Answer]:
    """The answer in one piece and streamed."""
    with _client(stack) as client:
        whole = client.responses.create(model="demo", input=text, **fields)
        with client.responses.create(model="demo", input=text, stream=True, **fields) as stream:
            *_, last = stream
    return [whole, last.response]


def test_a_steered_response_carries_the_decision_and_is_shielded(stack: Any) -> None:
    """The guard's parameters are added, and a phrase is cut with the usage kept."""
    stack.vllm.instead = _says("It was John", " Smith", " then.")
    for answer in _both(stack, "about John"):
        assert answer.output_text == "It was "
        assert answer.status == "incomplete"
        assert answer.incomplete_details.reason == "content_filter"
        assert answer.usage.output_tokens == 3
    assert all("lethegate_digest" in sent["vllm_xargs"] for sent in stack.vllm.requests)


def test_another_response_passes(stack: Any) -> None:
    """What is allowed goes on as it came, to the byte."""
    stack.vllm.instead = _says("It was John", " Smith.")
    for answer in _both(stack, "hi"):
        assert (answer.output_text, answer.status) == ("It was John Smith.", "completed")
    raw = json.dumps({"model": "demo", "input": "hi"}, indent=1).encode()
    stack.http.post("/v1/responses", content=raw, headers={"content-type": "application/json"})
    assert stack.vllm.raw_bodies[-1] == raw


def test_a_refusal_is_a_response(stack: Any) -> None:
    """Streamed and whole alike, stored like any other; the engine is never asked."""
    whole, streamed = _both(stack, "about Mary")

    assert whole.output_text == streamed.output_text != ""
    assert whole.status == streamed.status == "incomplete"
    assert whole.incomplete_details.reason == "content_filter"
    assert stack.vllm.requests == []
    with _client(stack) as client:
        assert client.responses.retrieve(whole.id).output_text == whole.output_text


def test_the_guard_reads_the_earlier_turns(stack: Any) -> None:
    """The engine gets the conversation whole, with what the client was shown; the answer links."""
    stack.vllm.instead = _says("It was John", " Smith", " then.")
    with _client(stack) as client:
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
    stack.vllm.instead = _says("Hello", " there.")
    first, streamed = _both(stack, "hi")
    again = _both(stack, "hi", previous_response_id=streamed.id)
    with _client(stack) as client:
        stored = client.responses.retrieve(again[1].id)

    assert [answer.previous_response_id for answer in again] == [streamed.id] * 2
    assert stored.previous_response_id == streamed.id
    assert stored.output_text == "Hello there."
    assert stored.id != first.id


def test_a_stored_response_is_judged_under_the_policy_of_the_day(stack: Any) -> None:
    """What was registered since is cut, or refused."""
    stack.vllm.instead = _says("It was Jane", " Doe", " then.")
    with _client(stack) as client:
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
    stack.vllm.instead = _says("Hello.")
    with _client(stack, "one") as one, _client(stack, "two") as two, _client(stack) as none:
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
        stack.vllm.instead = _says("Hello.")
        with _client(stack) as client:
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


def test_the_store_is_bounded_over_all_keys() -> None:
    """The oldest of all leave, and owners that have nothing left."""
    store = ResponseStore(100, 1000)
    for owner in range(1000):
        assert store.put(str(owner), "r", StoredResponse(b"x" * 50, b"y" * 40))
    kept = [store.get(str(owner), "r") is not None for owner in range(1000)]

    assert kept == [False] * 989 + [True] * 11
    assert (store.num_bytes, store.num_owners) == (990, 11)
    assert not ResponseStore(100, 50).put("a", "r", StoredResponse(b"x" * 51, b""))
    assert not ResponseStore(100, 0).is_on


@given(
    puts=st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("123"), st.integers(0, 60))),
    most=st.integers(0, 50),
    total=st.integers(0, 120),
)
def test_the_store_counts_what_it_holds(
    puts: list[tuple[str, str, int]], most: int, total: int
) -> None:
    """The limits hold after each put, and what came last is there whenever it can be."""
    store = ResponseStore(most, total)
    for owner, id_, size in puts:
        assert store.put(owner, id_, StoredResponse(b"", b"x" * size)) == store.takes(size)
        assert (store.get(owner, id_) is not None) == (size <= min(most, total))
        held = {
            o: [s.num_bytes for i in "123" if (s := store.get(o, i)) is not None] for o in "abcd"
        }
        assert all(sum(sizes) <= most for sizes in held.values())
        assert sum(map(sum, held.values())) == store.num_bytes <= total
        assert store.num_owners == sum(map(bool, held.values()))


def test_a_response_in_the_background(stack: Any) -> None:
    """It is queued at once, guarded like any other, and then retrieved."""
    stack.vllm.instead = _says("It was John", " Smith", " then.", seconds=0.2)
    with _client(stack) as client:
        queued = client.responses.create(model="demo", input="about John", background=True)
        assert client.responses.retrieve(queued.id).status == "queued"
        with pytest.raises(openai.BadRequestError):
            client.responses.create(model="demo", input="x", previous_response_id=queued.id)
        answer = _wait(client, queued.id)

    assert queued.status == "queued"
    assert (answer.id, answer.status, answer.output_text) == (queued.id, "incomplete", "It was ")
    assert answer.background
    assert "lethegate_digest" in stack.vllm.requests[-1]["vllm_xargs"]


def _wait(client: openai.OpenAI, id_: str) -> Answer:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        answer = client.responses.retrieve(id_)
        if answer.status != "queued":
            return answer
        time.sleep(0.02)
    raise AssertionError("the response was not made")


def test_a_failure_in_the_background_is_told(stack: Any) -> None:
    """The engine's own words are not."""
    stack.vllm.error = (500, {"error": {"message": "a secret", "code": 500}})
    with _client(stack) as client:
        id_ = client.responses.create(model="demo", input="about John", background=True).id
        answer = _wait(client, id_)

    assert answer.status == "failed"
    assert answer.error.message != "a secret"


def test_a_response_in_the_background_is_cancelled(stack: Any) -> None:
    """Once; what is complete cannot be."""
    stack.vllm.instead = _says("Hello.", seconds=30)
    with _client(stack) as client:
        id_ = client.responses.create(model="demo", input="hi", background=True).id
        assert client.responses.cancel(id_).status == "cancelled"
        assert client.responses.retrieve(id_).status == "cancelled"
        stack.vllm.instead = _says("Hello.")
        done = client.responses.create(model="demo", input="hi").id
        for finished in (id_, done):
            with pytest.raises(openai.BadRequestError):
                client.responses.cancel(finished)


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
    stack.vllm.instead = _says("Hello.")
    with _client(stack) as client:
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
    stack.vllm.instead = _says("Hello.")
    with _client(stack, "k") as client:
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
        answer = encode_json({"status": "completed", "output": [_item("Hello.")]})
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


def test_a_long_response_in_the_background_is_told(start_stack: Any) -> None:
    """One whose answer is longer than what is kept has failed; a request that is so is a 413."""
    stack = start_stack(response_store_bytes=8000)
    stack.vllm.instead = _says("x" * 8000)
    with _client(stack) as client:
        id_ = client.responses.create(model="demo", input="hi", background=True).id
        answer = _wait(client, id_)
        with pytest.raises(openai.APIStatusError) as caught:
            client.responses.create(model="demo", input="y" * 8000, background=True)

    assert (answer.id, answer.status, answer.error.code) == (id_, "failed", "server_error")
    assert "longer than what is kept" in answer.error.message
    assert answer.output == []
    assert (caught.value.status_code, caught.value.param) == (413, "background")
    assert len(stack.vllm.requests) == 1


def test_a_stored_response_is_not_streamed(stack: Any) -> None:
    """Its events are not kept."""
    stack.vllm.instead = _says("Hello.")
    with _client(stack) as client:
        id_ = client.responses.create(model="demo", input="hi").id
        with pytest.raises(openai.BadRequestError):
            client.responses.retrieve(id_, stream=True)
