"""An engine that lives but steps no more: nobody waits for it, and it is told."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp, Receive, Scope, Send

from detectors.targets import Phrase
from server import engine_watch
from server.engine_watch import EngineWatch, with_engine_watch
from server.errors import EngineStalled
from server.log import configure_logging
from server.metrics.gateway import GatewayMetrics
from server.metrics.labels import Failure
from server.middleware import GuardMiddleware
from server.settings import Settings

CHAT = {"model": "demo", "messages": [{"role": "user", "content": "hello"}]}
PATHS = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"model": "demo", "prompt": "hello"},
    "/v1/responses": {"model": "demo", "input": "hello"},
    "/v1/messages": {**CHAT, "max_tokens": 5},
    "/v1/embeddings": {"model": "demo", "input": "hello"},
}
SILENCE = "lethegate_engine_silent_seconds"
FAILURES = "lethegate_guard_failures_total"


@pytest.fixture
def watched(
    start_stack: Any, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """A gateway whose engine counts as hung after a moment without an answer.

    The parameter says after how many seconds otherwise.
    """
    for name in ("_ASK_AGAIN_SECONDS", "_LOOK_SECONDS"):
        monkeypatch.setattr(engine_watch, name, 0.1)

    def around(vllm: Any, metrics: GatewayMetrics) -> ASGIApp:
        seconds = getattr(request, "param", 0.4)
        watch = EngineWatch(vllm.is_sleeping, seconds, metrics.set_engine_silence)
        count = partial(metrics.record_failure, Failure.ENGINE)
        app = with_engine_watch(vllm.app(), watch, count)

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            if watch._task is None:
                watch.start()
            await app(scope, receive, send)

        return serve

    stack = start_stack(around=around)
    assert stack.chat().status_code == 200
    return stack


def _until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.02)


async def _never(*_: Any) -> Any:
    await asyncio.Event().wait()


@pytest.mark.parametrize("names", [[], [Phrase("John Smith")]], ids=["plain", "shielded"])
def test_nobody_waits_for_an_engine_that_hangs(
    watched: Any, names: list[Phrase], capfd: pytest.CaptureFixture[str]
) -> None:
    """Who waits and who comes is answered in its API's shape; an engine that goes on is used."""
    configure_logging("info")
    watched.guard.names = names
    watched.vllm.instead = _never
    answers: list[httpx.Response] = []
    waiting = threading.Thread(target=lambda: answers.append(watched.chat()))
    waiting.start()
    _until(lambda: len(watched.vllm.requests) == 2)
    watched.vllm.hangs = True
    waiting.join(60)

    assert (answers[0].status_code, answers[0].headers["retry-after"]) == (503, "1")
    assert answers[0].json()["error"]["code"] == "engine_stalled"
    assert watched.http.get("/readyz").json()["waiting_for"] == ["engine"]
    assert watched.http.get("/health").status_code == 503
    assert watched.http.get("/v1/models").status_code == 200
    assert watched.count(SILENCE) > 0.2
    for path, body in PATHS.items():
        refused = watched.http.post(path, json=body)
        assert refused.status_code == 503, path
        error = refused.json()["error"]
        kind = "overloaded_error" if path == "/v1/messages" else "server_error"
        assert (error["message"], error["type"]) == ("The engine does not answer.", kind)
    assert len(watched.vllm.requests) == 2
    assert watched.count(FAILURES, reason="guard_error") == 0
    # Whoever waited, and whoever came.
    assert watched.count(FAILURES, reason="engine") == 1 + len(PATHS)

    watched.vllm.instead, watched.vllm.hangs = None, False
    _until(lambda: watched.http.get("/readyz").status_code == 200)
    assert watched.http.get("/health").status_code == 200
    assert watched.chat().status_code == 200
    assert watched.count(SILENCE) == 0
    # The hang is told, not every request that ends for it.
    logged = capfd.readouterr().err
    assert "engine_stalled" in logged
    assert "inner_app_failed" not in logged


def test_a_shielded_stream_of_an_engine_that_hangs_ends(watched: Any) -> None:
    """With an error event and [DONE]; the engine is told that nobody waits."""
    watched.guard.names = [Phrase("John Smith")]
    watched.vllm.token_seconds = 60
    watched.vllm.hangs = True
    events = watched.chat(stream=True).text.strip().split("\n\n")

    assert events[-1] == "data: [DONE]"
    assert json.loads(events[-2].removeprefix("data: "))["error"]["code"] == "engine_error"
    assert watched.count(FAILURES, reason="engine") == 1
    assert watched.vllm.aborted.wait(60)


def test_a_plain_stream_of_an_engine_that_hangs_breaks_off(watched: Any) -> None:
    """It is passed on unread, so nobody but the engine could end it well."""
    watched.vllm.token_seconds = 60
    watched.vllm.hangs = True

    with pytest.raises(httpx.RemoteProtocolError):
        watched.chat(stream=True)
    assert watched.count(FAILURES, reason="engine") == 1
    assert watched.vllm.aborted.wait(60)


@pytest.mark.parametrize("watched", [60.0], indirect=True)
def test_a_step_that_takes_long_is_no_hang(watched: Any) -> None:
    """The engine answers late, but in time, and the request is answered."""
    watched.vllm.hangs = True
    _until(lambda: watched.count(SILENCE) > 0)
    watched.vllm.hangs = False

    assert watched.chat().status_code == 200


def test_where_the_process_itself_stood_still_the_engine_is_not_blamed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A machine that was suspended, or a loop that was blocked, says nothing of the engine."""
    monkeypatch.setattr(engine_watch, "_LOOK_SECONDS", 0.01)
    jumps = iter(range(0, 1_000_000, 1000))
    clock = SimpleNamespace(monotonic=lambda: float(next(jumps)))
    monkeypatch.setattr(engine_watch, "time", clock)
    told: list[float] = []
    watch = EngineWatch(lambda: asyncio.sleep(0.1), 100.0, told.append)
    asyncio.run(watch._answer())

    assert 0 < max(told) < 100
    assert not watch.stalled.is_set()


def test_an_error_is_an_answer() -> None:
    """That it fails says that its loop goes on; a dead engine is seen elsewhere."""

    async def ask() -> None:
        raise RuntimeError("engines disagree")

    async def scenario() -> EngineWatch:
        watch = EngineWatch(ask, 0.01, lambda _seconds: None)
        watch.start()
        await asyncio.sleep(0.1)
        assert watch._task is not None
        assert not watch._task.done()
        watch._task.cancel()
        return watch

    assert not asyncio.run(scenario()).stalled.is_set()


def test_the_middleware_watches_its_engine(tmp_path: Path) -> None:
    """With the engine's client that vLLM gave it, unless the setting says not to."""

    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        pass

    async def scenario() -> None:
        silent = SimpleNamespace(is_sleeping=asyncio.Event().wait)
        given = {"state_dir": tmp_path, "engine_stall_seconds": 0.1}
        middleware = object.__new__(GuardMiddleware)
        middleware._settings = Settings.model_validate(given)
        middleware._metrics = GatewayMetrics(registry := CollectorRegistry())
        watched = middleware._watched(app, silent)

        async def ask() -> None:
            async with asyncio.timeout(60):
                while True:
                    await watched({"type": "http", "method": "POST", "path": "/"}, _never, _never)
                    await asyncio.sleep(0.01)

        with pytest.raises(EngineStalled):
            await ask()
        assert registry.get_sample_value(FAILURES, {"reason": "engine"}) == 1
        middleware._settings = Settings.model_validate({**given, "engine_stall_seconds": 0})
        assert middleware._watched(app, silent) is app

    asyncio.run(scenario())
