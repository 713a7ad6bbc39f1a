"""The limits of keys as clients see them, and what a request is found to have cost."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from prometheus_client import CollectorRegistry
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Message

from server.auth import Caller, KeyRing, Role
from server.endpoints import Endpoint, Handling
from server.keys.counters import Counters
from server.keys.limited import KeyLimits
from server.keys.limits import Limiter, Limits
from server.keys.meter import Meter
from server.metrics.gateway import GatewayMetrics
from server.settings import Settings

KEY = {"authorization": "Bearer lg-x"}


def _ring(limits: Limits) -> KeyRing:
    class Listed:
        required = True

        def find(self, digest: str, now: float) -> Caller | None:
            return Caller("key-1", Role.CLIENT, limits=limits)

    return KeyRing({}, Listed)


def test_openais_clients_are_told(start_stack: Any, clock: Callable[[float], None]) -> None:
    """The official client raises its own error, with OpenAI's headers and code."""
    stack = start_stack(keyring=_ring(Limits(requests_per_minute=1, tokens_per_minute=500)))
    client = openai.OpenAI(base_url=f"{stack.url}/v1", api_key="lg-x", max_retries=0)
    ask = client.chat.completions.with_raw_response.create
    messages: Any = [{"role": "user", "content": "hi"}]
    told = ask(model="demo", messages=messages, max_tokens=20).headers
    with pytest.raises(openai.RateLimitError) as caught:
        ask(model="demo", messages=messages)
    error = caught.value.response

    assert told["x-ratelimit-limit-requests"] == "1"
    assert told["x-ratelimit-remaining-requests"] == "0"
    assert told["x-ratelimit-reset-requests"] == "1m0s"
    assert int(told["x-ratelimit-remaining-tokens"]) in range(440, 481)
    assert caught.value.code == "rate_limit_exceeded"
    assert error.json()["error"]["type"] == "requests"
    assert 58 <= int(error.headers["retry-after"]) <= 60
    assert error.headers["x-ratelimit-remaining-requests"] == "0"
    assert len(stack.vllm.requests) == 1
    assert stack.count("lethegate_limited_requests_total", limit="requests") == 1
    client.close()


def test_anthropics_clients_are_told(start_stack: Any, clock: Callable[[float], None]) -> None:
    """In their own shape and headers."""
    stack = start_stack(keyring=_ring(Limits(requests_per_minute=1, tokens_per_minute=500)))
    body = {"model": "demo", "max_tokens": 20, "messages": [{"role": "user", "content": "hi"}]}
    headers = {"x-api-key": "lg-x"}
    first = stack.http.post("/v1/messages", json=body, headers=headers)
    second = stack.http.post("/v1/messages", json=body, headers=headers)

    assert first.headers["anthropic-ratelimit-requests-limit"] == "1"
    assert first.headers["anthropic-ratelimit-tokens-reset"].endswith("Z")
    assert second.status_code == 429
    assert second.json()["type"] == "error"
    assert second.json()["error"]["type"] == "rate_limit_error"
    assert "retry-after" in second.headers


def test_usage_is_what_counts(start_stack: Any, clock: Callable[[float], None]) -> None:
    """Whole answers and streams are counted by the engine, else by their events."""
    stack = start_stack(keyring=_ring(Limits(tokens_per_minute=10_000)))

    def cost(text: str, **fields: Any) -> int:
        body = {"messages": [{"role": "user", "content": text}], "max_tokens": 50, **fields}
        before = _tokens_left(stack)
        answer = stack.http.post("/v1/chat/completions", json=body, headers=KEY)
        assert answer.status_code in (200, 400)
        return before - _tokens_left(stack)

    # The fake engine counts 5 tokens of prompt and 3 of the answer.
    assert cost("hi") == 8
    assert cost("hi", stream=True, stream_options={"include_usage": True}) == 8
    assert 5 <= cost("hi", stream=True) <= 40
    assert cost("about John") == 8
    assert cost("about Mary") <= 8
    assert cost("hi", echo=True) == 0


def _tokens_left(stack: Any) -> int:
    """Tokens left when no request is under way any more."""
    end = time.monotonic() + 30
    while True:
        with stack.counters.entry("key-1") as (entry, place):
            if not stack.counters.under_way(place):
                return round(10_000 - entry.tokens)
        assert time.monotonic() < end
        time.sleep(0.005)


def test_requests_at_once_over_http(start_stack: Any) -> None:
    """A stream counts until its end; a client that leaves makes room."""
    stack = start_stack(keyring=_ring(Limits(concurrent_requests=1)))
    stack.vllm.says, stack.vllm.token_seconds = [["a"] * 2000], 0.02
    body = {"messages": [{"role": "user", "content": "hi"}]}
    with (
        httpx.Client(base_url=stack.url, timeout=60) as other,
        other.stream(
            "POST", "/v1/chat/completions", json={**body, "stream": True}, headers=KEY
        ) as answer,
    ):
        chunks = answer.iter_raw()  # which closes the answer when it is gone
        next(chunks)
        refused = stack.http.post("/v1/chat/completions", json=body, headers=KEY)
    stack.vllm.token_seconds = 0.0
    end = time.monotonic() + 30
    while stack.http.post("/v1/chat/completions", json=body, headers=KEY).status_code != 200:
        assert time.monotonic() < end
        threading.Event().wait(0.02)

    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"


def test_who_has_the_whole_answer_may_ask_again(
    tmp_path: Path, clock: Callable[[float], None]
) -> None:
    """At once and wherever: another process looks whether anything is under way yet."""
    counters, others = (Counters(tmp_path / "keys") for _ in range(2))
    metrics = GatewayMetrics(CollectorRegistry())
    limits = KeyLimits(Limiter(counters), Settings(state_dir=tmp_path), metrics)
    only_one = Limits(concurrent_requests=1, tokens_per_minute=10_000)
    caller = Caller("key-1", Role.CLIENT, limits=only_one)
    found: list[int] = []

    async def send(_message: Message) -> None:
        with others.entry("key-1") as (entry, place):
            found.append(others.under_way(place) * 10_000 + round(entry.tokens))

    async def answer() -> None:
        usage = b'{"usage": {"total_tokens": 8}}'
        with limits.request(caller, Endpoint(Handling.CHAT, "POST"), send) as request:
            request.reserve(400, {"max_tokens": 50})
            await request.send({"type": "http.response.start", "status": 200, "headers": []})
            body = {"type": "http.response.body", "body": usage}
            await request.send({**body, "more_body": True})
            await request.send({**body, "body": b"\n"})

    asyncio.run(answer())
    assert found == [10_150, 10_150, 8]
    counters.close()
    others.close()


def test_responses_in_the_background_are_under_way(
    start_stack: Any, clock: Callable[[float], None]
) -> None:
    """They count until they end or are cancelled, and cost what they cost; looking is free then."""
    stack = start_stack(keyring=_ring(Limits(concurrent_requests=1, tokens_per_minute=10_000)))
    ended, usage = threading.Event(), {"input_tokens": 20, "output_tokens": 1000}

    async def answer(request: Request) -> JSONResponse:
        body = await request.json()
        await asyncio.to_thread(ended.wait, 60)
        head = {"id": body["request_id"], "object": "response", "status": "completed"}
        return JSONResponse({**head, "output": [], "usage": usage})

    stack.vllm.instead = answer
    later = {"input": "hi", "background": True, "max_output_tokens": 2000}
    with httpx.Client(base_url=f"{stack.url}/v1", headers=KEY, timeout=60) as client:

        def state(id_: str) -> str:
            return str(client.get(f"/responses/{id_}").json()["status"])

        first = client.post("/responses", json=later)
        refused = client.post("/responses", json=later)
        assert state(first.json()["id"]) == "queued"
        client.post(f"/responses/{first.json()['id']}/cancel")
        second = client.post("/responses", json=later)
        ended.set()
        end = time.monotonic() + 30
        while state(second.json()["id"]) != "completed":
            assert time.monotonic() < end
            time.sleep(0.01)
        third = client.post("/responses", json={**later, "max_output_tokens": 1})

    left = [int(a.headers["x-ratelimit-remaining-tokens"]) for a in (first, second, third)]
    assert [a.status_code for a in (first, refused, second, third)] == [200, 429, 200, 200]
    assert left[0] < 8_000
    # The first keeps its reservation, as nobody knows what it has cost.
    assert left[0] - 2_100 < left[1] < left[0] - 1_900
    assert left[1] + 850 < left[2] < left[1] + 1_150


def test_what_a_client_calls_usage_counts_for_nothing(
    start_stack: Any, clock: Callable[[float], None]
) -> None:
    """A refusal repeats it, and gives back nothing of what was spent before."""
    stack = start_stack(keyring=_ring(Limits(tokens_per_minute=10_000)))
    usage = {"usage": {"total_tokens": -9_000}}
    refused = {"input": "about Mary", "metadata": usage}
    with httpx.Client(base_url=f"{stack.url}/v1", headers=KEY, timeout=60) as client:
        for _ in range(3):
            stack.http.post(
                "/v1/chat/completions",
                json={"messages": [{"role": "user", "content": "hi"}]},
                headers=KEY,
            )
        before = _tokens_left(stack)
        assert client.post("/responses", json=refused).json()["metadata"] == usage
        after = _tokens_left(stack)

    assert after <= before <= 10_000 - 3 * 8


def test_a_streams_last_events_are_what_it_has_cost() -> None:
    """What the beginning repeats of the request is not taken for the engine's count."""

    async def send(message: Any) -> None:
        """Nobody reads it."""

    async def cost(*events: bytes) -> int | None:
        meter = Meter(send, 10)
        headers = [(b"content-type", b"text/event-stream")]
        await meter.send({"type": "http.response.start", "status": 200, "headers": headers})
        for event in events:
            body = b"data: " + event + b"\n\n"
            await meter.send({"type": "http.response.body", "body": body, "more_body": True})
        return meter.tokens

    begun = b'{"response": {"tools": [{"usage": {"total_tokens": -9000}}], "usage": null}}'
    said, done = b'{"delta": "a"}', b'{"usage": {"total_tokens": 17}}'
    assert asyncio.run(cost(begun, *[said] * 20)) == 31
    assert asyncio.run(cost(begun, said, done, b"[DONE]")) == 17


def test_reading_a_stored_response_is_a_request(
    start_stack: Any, clock: Callable[[float], None]
) -> None:
    """It is judged anew each time, which costs what judging costs."""
    stack = start_stack(keyring=_ring(Limits(requests_per_minute=2)))
    with httpx.Client(base_url=f"{stack.url}/v1", headers=KEY, timeout=60) as client:
        made = client.post("/responses", json={"input": "about Mary"})
        statuses = [client.get(f"/responses/{made.json()['id']}").status_code for _ in range(2)]

    assert statuses == [200, 429]


def test_limits_of_bodies_and_defaults(start_stack: Any, clock: Callable[[float], None]) -> None:
    """A key's longest body, and the settings where a key has no limit."""
    stack = start_stack(keyring=_ring(Limits(max_body_bytes=1024)), requests_per_minute=3)
    long = {"messages": [{"role": "user", "content": "a" * 2000}]}
    short = {"messages": [{"role": "user", "content": "a"}]}
    statuses = [
        stack.http.post("/v1/chat/completions", json=body, headers=KEY).status_code
        for body in (long, short, short, short)
    ]

    assert statuses == [413, 200, 200, 429]
    assert stack.http.get("/v1/models", headers=KEY).status_code == 200
