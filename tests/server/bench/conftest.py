"""Answers made by hand, and a tiny server that streams what it is told to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from server.bench.answers import Answer
from tests.server.loopback import serve


@dataclass
class TinyServer:
    """Streams `max_tokens` words per request; `status` or `dies_after` make it fail."""

    status: int = 200
    dies_after: int | None = None
    verdicts: dict[str, str] = field(default_factory=dict)
    metrics: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    base_url: str = ""

    def app(self) -> Starlette:
        """The ASGI app."""
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/metrics", self._metrics),
            ]
        )

    async def _metrics(self, _request: Request) -> Response:
        return PlainTextResponse(self.metrics)

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        if self.status != 200:
            return PlainTextResponse("no", status_code=self.status)
        verdict = self.verdicts.get(body["messages"][0]["content"], "allow")
        headers = {"x-lethegate-decision": verdict}
        return StreamingResponse(self._words(body), headers=headers)

    async def _words(self, body: dict[str, Any]) -> AsyncIterator[bytes]:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        for number in range(body["max_tokens"]):
            if number == self.dies_after:
                self.running -= 1
                return
            yield chunk({"content": "word "})
            await asyncio.sleep(0.002)
        yield chunk({}, finish_reason="length")
        usage = {"prompt_tokens": 3, "completion_tokens": body["max_tokens"]}
        yield b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n"
        yield b"data: [DONE]\n\n"
        self.running -= 1


def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
    """One chunk of a chat stream as an event."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


@pytest.fixture
def make_chunk() -> Callable[..., bytes]:
    """Builds one chunk of a chat stream as an event."""
    return chunk


@pytest.fixture
def make_answer() -> Callable[..., Answer]:
    """Builds an answer that was sent at 0 and whose tokens arrived at the given seconds."""

    def make(*arrivals: float, **fields: Any) -> Answer:
        whole = {
            "asked": 2,
            "sent": 0.0,
            "ended": max(arrivals, default=0.0),
            "arrivals": arrivals,
            "tokens": len(arrivals),
            "finish_reason": "length",
            "failure": "",
        }
        return Answer(**{**whole, **fields})

    return make


@pytest.fixture
def tiny_server() -> Iterator[TinyServer]:
    """A tiny server on loopback."""
    tiny = TinyServer()
    tiny.base_url, stop = serve(tiny.app(), log_level="error", lifespan="off")
    yield tiny
    stop()
