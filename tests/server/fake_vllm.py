"""A small true fake of vLLM, which says what it is told to."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route


class Vocabulary:
    """Token ids for any strings, given out as they are met."""

    def __init__(self) -> None:
        self._tokens: list[str] = []

    def id(self, token: str) -> int:
        """The id of a token."""
        if token not in self._tokens:
            self._tokens.append(token)
        return self._tokens.index(token)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of some ids."""
        return "".join(self._tokens[token_id] for token_id in token_ids)


@dataclass
class FakeVllm:
    """An engine that says what it is told to, in vLLM's JSON, and notices when nobody listens.

    `says` holds one list per choice; a string is a token of content, a dict a whole delta. After
    `waits_after` chunks it says nothing for as long as that is set.
    """

    says: list[list[Any]] = field(default_factory=lambda: [["Hello", " there", "."]])
    finish_reason: str = "stop"
    stop_reason: str | int | None = None
    alternatives: list[tuple[str, float]] = field(default_factory=list)
    token_seconds: float = 0.0
    error: tuple[int, dict[str, Any]] | None = None
    stream_error: dict[str, Any] | None = None
    instead: Callable[[Request], Awaitable[Response]] | None = None
    dies_after: int | None = None
    waits_after: int | None = None
    healthy: bool = True
    hangs: bool = False
    requests: list[dict[str, Any]] = field(default_factory=list)
    raw_bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    chunks_sent: int = 0
    aborted: threading.Event = field(default_factory=threading.Event)
    vocabulary: Vocabulary = field(default_factory=Vocabulary)

    def app(self) -> Starlette:
        """The ASGI app."""
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self._generate, methods=["POST"]),
                Route("/v1/chat/completions/batch", self._generate, methods=["POST"]),
                Route("/v1/completions", self._generate, methods=["POST"]),
                Route("/v1/messages", self._generate, methods=["POST"]),
                Route("/v1/responses", self._generate, methods=["POST"]),
                Route("/v1/models", self._models),
                Route("/tokenize", self._tokenize, methods=["POST"]),
                Route("/health", self._health),
                Route("/version", self._version),
                Route("/detokenize", self._tokenize, methods=["POST"]),
                Route("/generative_scoring", self._tokenize, methods=["POST"]),
            ]
        )

    async def is_sleeping(self) -> bool:
        """What its loop answers between two steps."""
        while self.hangs:  # noqa: ASYNC110  (set from another thread)
            await asyncio.sleep(0.01)
        return False

    async def _models(self, _request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": "demo", "object": "model"}]})

    async def _version(self, _request: Request) -> Response:
        return JSONResponse({"version": "0.32.0"})

    async def _health(self, _request: Request) -> Response:
        return PlainTextResponse("", status_code=200 if self.healthy else 503)

    async def _tokenize(self, _request: Request) -> Response:
        return JSONResponse({"tokens": [1, 2], "count": 2})

    async def _generate(self, request: Request) -> Response:
        raw = await request.body()
        body = json.loads(raw)
        self.raw_bodies.append(raw)
        self.requests.append(body)
        self.headers.append(dict(request.headers))
        if self.instead is not None:
            return await self.instead(request)
        if self.error is not None:
            return JSONResponse(self.error[1], status_code=self.error[0])
        chat = request.url.path.startswith("/v1/chat/completions")
        if body.get("stream"):
            events = self._events(body, chat)
            return StreamingResponse(events, media_type="text/event-stream")
        return JSONResponse(self._whole(body, chat), headers={"x-engine": "fake"})

    async def _events(self, body: dict[str, Any], chat: bool) -> AsyncIterator[str]:
        try:
            async for event in self._stream(body, chat):
                yield event
        except (asyncio.CancelledError, GeneratorExit):
            self.aborted.set()
            raise

    async def _stream(self, body: dict[str, Any], chat: bool) -> AsyncIterator[str]:
        options = body.get("stream_options") or {}
        head = self._head(chat, streaming=True)
        if chat:
            for index in range(len(self.says)):
                role = {"role": "assistant", "content": ""}
                yield self._event(head, self._chunk_choice(index, role, [], body, None), options, 0)
        for position in range(max(map(len, self.says))):
            for index, deltas in enumerate(self.says):
                if position >= len(deltas):
                    continue
                await asyncio.sleep(self.token_seconds)
                while self._waits():  # noqa: ASYNC110  (set from another thread)
                    await asyncio.sleep(0.01)
                if self.dies_after is not None and self.chunks_sent >= self.dies_after:
                    raise RuntimeError("the engine is dead")
                last = position == len(deltas) - 1
                delta = deltas[position]
                message = {"content": delta} if isinstance(delta, str) else delta
                tokens = [delta] if isinstance(delta, str) else []
                finish = self.finish_reason if last else None
                choice = self._chunk_choice(index, message, tokens, body, finish, chat=chat)
                yield self._event(head, choice, options, position + 1)
                self.chunks_sent += 1
        if self.stream_error is not None:
            yield f"data: {json.dumps({'error': self.stream_error})}\n\n"
        elif options.get("include_usage"):
            usage_chunk = {**head, "choices": [], "usage": self._usage(sum(map(len, self.says)))}
            yield f"data: {json.dumps(usage_chunk, separators=(',', ':'))}\n\n"
        yield "data: [DONE]\n\n"

    def _waits(self) -> bool:
        after = self.waits_after
        return after is not None and self.chunks_sent >= after

    def _event(
        self, head: dict[str, Any], choice: dict[str, Any], options: dict[str, Any], tokens: int
    ) -> str:
        chunk = {**head, "choices": [choice]}
        if options.get("include_usage") and options.get("continuous_usage_stats"):
            chunk["usage"] = self._usage(tokens)
        return f"data: {json.dumps(chunk, ensure_ascii=False, separators=(',', ':'))}\n\n"

    def _chunk_choice(
        self,
        index: int,
        message: dict[str, Any],
        tokens: list[str],
        body: dict[str, Any],
        finish: str | None,
        *,
        chat: bool = True,
    ) -> dict[str, Any]:
        said = {"delta": message} if chat else {"text": message.get("content", "")}
        choice = {"index": index, **said, "logprobs": self._logprobs(tokens, body, chat)}
        choice |= {"finish_reason": finish}
        if finish is not None:
            choice["stop_reason"] = self.stop_reason
        if body.get("return_token_ids"):
            choice["token_ids"] = [self.vocabulary.id(token) for token in tokens]
        return choice

    def _whole(self, body: dict[str, Any], chat: bool) -> dict[str, Any]:
        choices = []
        for index, deltas in enumerate(self.says):
            tokens = [delta for delta in deltas if isinstance(delta, str)]
            message: dict[str, Any] = {"role": "assistant", "content": "".join(tokens) or None}
            for delta in deltas:
                if isinstance(delta, dict):
                    _merge(message, delta)
            said = {"message": message} if chat else {"text": "".join(tokens)}
            choice = {"index": index, **said, "logprobs": self._logprobs(tokens, body, chat)}
            choice |= {"finish_reason": self.finish_reason, "stop_reason": self.stop_reason}
            choice["token_ids"] = None
            if body.get("return_token_ids"):
                choice["token_ids"] = [self.vocabulary.id(token) for token in tokens]
            choices.append(choice)
        usage = self._usage(sum(map(len, self.says)))
        return {**self._head(chat, streaming=False), "choices": choices, "usage": usage}

    def _logprobs(self, tokens: list[str], body: dict[str, Any], chat: bool) -> Any:
        if not body.get("logprobs") or not tokens:
            return None
        as_ids = body.get("return_tokens_as_token_ids")

        def name(token: str) -> str:
            return f"token_id:{self.vocabulary.id(token)}" if as_ids else token

        named = [name(token) for token in tokens]
        rest = [(name(token), logprob) for token, logprob in self.alternatives]
        if chat:
            others = [{"token": t, "logprob": p, "bytes": None} for t, p in rest]
            own = [{"token": t, "logprob": -0.5, "bytes": None} for t in named]
            return {"content": [{**o, "top_logprobs": [o, *others]} for o in own]}
        return {
            "tokens": named,
            "token_logprobs": [-0.5] * len(named),
            "text_offset": [0] * len(named),
            "top_logprobs": [{t: -0.5, **dict(rest)} for t in named],
        }

    def _head(self, chat: bool, *, streaming: bool) -> dict[str, Any]:
        kind = "chat.completion" if chat else "text_completion"
        return {
            "id": "chatcmpl-1" if chat else "cmpl-1",
            "object": kind + ".chunk" if chat and streaming else kind,
            "created": 1_700_000_000,
            "model": "demo",
        }

    def _usage(self, tokens: int) -> dict[str, int]:
        return {"prompt_tokens": 5, "total_tokens": 5 + tokens, "completion_tokens": tokens}


def _merge(message: dict[str, Any], delta: dict[str, Any]) -> None:
    """Add a delta to a whole message, as a client would."""
    for key, value in delta.items():
        if key != "tool_calls":
            message[key] = (message.get(key) or "") + value
            continue
        calls = message.setdefault("tool_calls", [])
        for part in value:
            if part["index"] == len(calls):
                calls.append({"id": "t", "type": "function", "function": {"arguments": ""}})
            function = calls[part["index"]]["function"]
            for name, text in part["function"].items():
                function[name] = function.get(name, "") + text
