"""The limits of keys: buckets, shared counters, and what clients see."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import JSONResponse

from server.auth import Caller, KeyRing, Role
from server.errors import ConcurrencyLimited, RateLimited, RequestsLimited, TokensLimited
from server.keys import counters as counters_module
from server.keys import limits as limits_module
from server.keys.counters import Counters, last_uses
from server.keys.limits import OPEN_ANSWER_TOKENS, Limiter, Limits, asked_tokens
from server.keys.meter import Meter

KEY = {"authorization": "Bearer lg-x"}


@pytest.fixture
def counters(tmp_path: Path) -> Iterator[Counters]:
    """A file of its own."""
    made = Counters(tmp_path / "keys")
    yield made
    made.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Time that passes when it is told to."""
    now = [1000.0]
    monkeypatch.setattr(limits_module, "monotonic", lambda: now[0])

    def go_on(seconds: float) -> None:
        now[0] += seconds

    return go_on


def _enters(limiter: Limiter, limits: Limits, key: str = "k") -> bool:
    with suppress(RateLimited):
        limiter.enter(key, limits, anthropic=False).leave(None)
        return True
    return False


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    limit=st.integers(1, 50),
    waits=st.lists(st.floats(0, 30), max_size=150),
    key=st.uuids().map(str),
)
def test_no_stretch_of_time_sees_more_than_the_bucket_gives(
    counters: Counters,
    clock: Callable[[float], None],
    limit: int,
    waits: list[float],
    key: str,
) -> None:
    """Over any time t at most limit * (1 + t / 60) requests are let in."""
    limiter, let_in, now = Limiter(counters), [], 0.0
    for wait in waits:
        clock(wait)
        now += wait
        if _enters(limiter, Limits(requests_per_minute=limit), key):
            let_in.append(now)

    for first in range(len(let_in)):
        for last in range(first, len(let_in)):
            most = limit * (1 + (let_in[last] - let_in[first]) / 60)
            assert last - first + 1 <= most + 1e-6


def test_waiting_as_long_as_told_is_enough(
    counters: Counters, clock: Callable[[float], None]
) -> None:
    """`Retry-After` is the time after which the same request is let in."""
    limiter, limits = Limiter(counters), Limits(requests_per_minute=7, tokens_per_minute=1000)
    while _enters(limiter, limits):
        pass
    with pytest.raises(RequestsLimited) as caught:
        limiter.enter("k", limits, anthropic=False)
    clock(caught.value.retry_after_seconds or 0)

    admission = limiter.enter("k", limits, anthropic=False)
    admission.reserve(400, {"max_tokens": 800})
    with pytest.raises(TokensLimited) as caught_tokens:
        admission.reserve(400, {"max_tokens": 800})
    assert caught_tokens.value.headers["x-ratelimit-remaining-tokens"] == "100"
    clock(caught_tokens.value.retry_after_seconds or 0)
    admission.reserve(400, {"max_tokens": 800})


def test_tokens_are_put_right_by_the_answer(
    counters: Counters, clock: Callable[[float], None]
) -> None:
    """What was reserved and not needed comes back, what was needed beyond it is owed."""
    limiter, limits = Limiter(counters), Limits(tokens_per_minute=1000)

    def left(spent: int | None) -> str:
        admission = limiter.enter("k", limits, anthropic=False)
        admission.reserve(400, {"max_tokens": 800})
        admission.leave(spent)
        probe = limiter.enter("k", limits, anthropic=False)
        probe.leave(None)
        return probe.headers()["x-ratelimit-remaining-tokens"]

    assert left(150) == "850"
    clock(60)
    assert left(None) == "100"
    clock(60)
    assert left(1500) == "0"
    clock(60)  # of the debt of 1,500 a minute's worth is gone
    assert not _reserves(limiter, limits, 600)
    assert _reserves(limiter, limits, 500)


def _reserves(limiter: Limiter, limits: Limits, tokens: int) -> bool:
    admission = limiter.enter("k", limits, anthropic=False)
    with suppress(TokensLimited):
        admission.reserve(0, {"max_tokens": tokens})
        return True
    return False


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({}, 100 + OPEN_ANSWER_TOKENS),
        ({"max_tokens": 5}, 105),
        ({"max_tokens": 5, "max_completion_tokens": 7}, 107),
        ({"max_tokens": 5, "n": 3}, 115),
        ({"max_tokens": 5, "n": 2, "prompt": ["a", "b"]}, 120),
        ({"max_tokens": 5, "messages": [[{}], [{}]]}, 110),
        ({"max_tokens": True, "n": "many"}, 100 + OPEN_ANSWER_TOKENS),
    ],
)
def test_what_a_request_may_need(body: dict[str, Any], tokens: int) -> None:
    """Its prompts and every answer at its longest."""
    assert asked_tokens(400, body, 1_000_000) == tokens
    assert asked_tokens(400, {}, 300) == 300


@pytest.mark.parametrize(
    ("seconds", "written"), [(0.0201, "21ms"), (1.5, "1.5s"), (59.0, "59s"), (360.0, "6m0s")]
)
def test_durations_are_written_as_openai_does(seconds: float, written: str) -> None:
    """In Go's form."""
    assert limits_module._duration(seconds) == written


def test_requests_at_once(counters: Counters) -> None:
    """As many as the limit, and another when one has ended."""
    limiter, limits = Limiter(counters), Limits(concurrent_requests=2)
    first, _ = (limiter.enter("k", limits, anthropic=False) for _ in range(2))
    with pytest.raises(ConcurrencyLimited):
        limiter.enter("k", limits, anthropic=False)
    assert _enters(limiter, limits, "another")
    first.leave(None)

    assert _enters(limiter, limits)


_CHILD = """
import sys, time
from pathlib import Path
from server.keys.counters import Counters
from server.keys.limits import Limiter, Limits
from server.errors import RateLimited
limiter = Limiter(Counters(Path(sys.argv[1])))
limits = Limits(requests_per_minute=100, concurrent_requests=1000)
let_in = 0
for _ in range(90):
    try:
        limiter.enter("k", limits, anthropic=False)
        let_in += 1
    except RateLimited:
        pass
print(let_in, flush=True)
time.sleep(60)
"""


def test_processes_share_a_limit(tmp_path: Path) -> None:
    """Two gateways let in together what one would; what a killed one had under way is forgotten."""
    command = [sys.executable, "-c", _CHILD, str(tmp_path / "keys")]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    try:
        counts = [int(child.stdout.readline()) for child in children if child.stdout]
        mine = Counters(tmp_path / "keys")
        limiter, limits = Limiter(mine), Limits(concurrent_requests=100)

        assert 100 <= sum(counts) <= 110  # while they ran the bucket emptied a little
        assert not _enters(limiter, limits)
    finally:
        for child in children:
            child.kill()
            child.wait()
            assert child.stdout is not None
            child.stdout.close()
    assert _enters(limiter, limits)
    mine.close()


def test_a_process_that_waited_sees_what_others_took_meanwhile(
    tmp_path: Path,
    counters: Counters,
    clock: Callable[[float], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its wait for the lock does not look like a reboot, which empties the bucket."""
    limits, real = Limits(requests_per_minute=2), counters.entry
    other = Counters(tmp_path / "keys")
    assert _enters(Limiter(other), limits)
    assert _enters(Limiter(other), limits)

    @contextmanager
    def waiting(key_id: str) -> Iterator[Any]:
        clock(0.001)
        assert not _enters(Limiter(other), limits)
        with real(key_id) as found:
            yield found

    monkeypatch.setattr(counters, "entry", waiting)
    assert not _enters(Limiter(counters), limits)
    other.close()


def test_more_keys_than_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table never grows; the key that was idle longest makes room."""
    monkeypatch.setattr(counters_module, "_PROBES", 4)
    counters = Counters(tmp_path / "keys")
    size = (tmp_path / "keys" / "counters").stat().st_size
    for number in range(3000):
        with counters.entry(f"key-{number}") as (entry, _):
            entry.used_at = float(number + 1)
    uses = last_uses(tmp_path / "keys", ["key-2999", "nobody"])
    counters.close()

    assert (tmp_path / "keys" / "counters").stat().st_size == size < 4 * 1024 * 1024
    assert uses == {"key-2999": 3000.0}
    assert (tmp_path / "keys" / "counters").stat().st_mode & 0o077 == 0


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


def test_anthropics_clients_are_told(start_stack: Any) -> None:
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
    end = time.monotonic() + 5
    while True:
        with stack.counters.entry("key-1") as (entry, place):
            if not stack.counters.under_way(place):
                return round(10_000 - entry.tokens)
        assert time.monotonic() < end
        time.sleep(0.005)


def test_requests_at_once_over_http(start_stack: Any) -> None:
    """A stream counts until its end; a client that leaves makes room."""
    stack = start_stack(keyring=_ring(Limits(concurrent_requests=1)))
    stack.vllm.says, stack.vllm.token_seconds = [["a"] * 200], 0.02
    body = {"messages": [{"role": "user", "content": "hi"}]}
    with (
        httpx.Client(base_url=stack.url) as other,
        other.stream(
            "POST", "/v1/chat/completions", json={**body, "stream": True}, headers=KEY
        ) as answer,
    ):
        chunks = answer.iter_raw()  # which closes the answer when it is gone
        next(chunks)
        refused = stack.http.post("/v1/chat/completions", json=body, headers=KEY)
    stack.vllm.token_seconds = 0.0
    end = time.monotonic() + 5
    while stack.http.post("/v1/chat/completions", json=body, headers=KEY).status_code != 200:
        assert time.monotonic() < end
        threading.Event().wait(0.02)

    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"


def test_responses_in_the_background_are_under_way(start_stack: Any) -> None:
    """They count until they end or are cancelled, and cost what they cost; looking is free then."""
    stack = start_stack(keyring=_ring(Limits(concurrent_requests=1, tokens_per_minute=10_000)))
    ended, usage = threading.Event(), {"input_tokens": 20, "output_tokens": 1000}

    async def answer(request: Request) -> JSONResponse:
        body = await request.json()
        await asyncio.to_thread(ended.wait, 5)
        head = {"id": body["request_id"], "object": "response", "status": "completed"}
        return JSONResponse({**head, "output": [], "usage": usage})

    stack.vllm.instead = answer
    later = {"input": "hi", "background": True, "max_output_tokens": 2000}
    with httpx.Client(base_url=f"{stack.url}/v1", headers=KEY) as client:

        def state(id_: str) -> str:
            return str(client.get(f"/responses/{id_}").json()["status"])

        first = client.post("/responses", json=later)
        refused = client.post("/responses", json=later)
        assert state(first.json()["id"]) == "queued"
        client.post(f"/responses/{first.json()['id']}/cancel")
        second = client.post("/responses", json=later)
        ended.set()
        end = time.monotonic() + 5
        while state(second.json()["id"]) != "completed":
            assert time.monotonic() < end
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
    with httpx.Client(base_url=f"{stack.url}/v1", headers=KEY) as client:
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


def test_reading_a_stored_response_is_a_request(start_stack: Any) -> None:
    """It is judged anew each time, which costs what judging costs."""
    stack = start_stack(keyring=_ring(Limits(requests_per_minute=2)))
    with httpx.Client(base_url=f"{stack.url}/v1", headers=KEY) as client:
        made = client.post("/responses", json={"input": "about Mary"})
        statuses = [client.get(f"/responses/{made.json()['id']}").status_code for _ in range(2)]

    assert statuses == [200, 429]


def test_limits_of_bodies_and_defaults(start_stack: Any) -> None:
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
