"""An engine that counts, as fast as it can: what is before it shows.

`python -m server.bench.scripted_engine MODEL PORT [guarded]`. With `guarded` the gateway is around
it as `lethegate serve` puts it around vLLM; its settings and policy come from the environment.
"""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from guard.follower import Follower
from server.bench.servers import SERVED_NAME
from server.middleware import GuardMiddleware
from server.settings_sources import load_settings
from server.sse import DONE, encode_event


def create_engine(model: str, *, guarded: bool) -> Starlette:
    """The ASGI app; `model` names the tokenizer, which the gateway wants to know."""
    app = Starlette(
        routes=[
            Route("/v1/chat/completions", _chat, methods=["POST"]),
            Route("/health", _health),
        ],
        middleware=[Middleware(GuardMiddleware)] if guarded else [],
    )
    app.state.args = SimpleNamespace(
        model=model,
        served_model_name=[SERVED_NAME],
        tokenizer=None,
        tokenizer_revision=None,
        trust_remote_code=False,
    )
    app.state.engine_client = SimpleNamespace(is_sleeping=_is_sleeping)
    return app


async def _is_sleeping() -> bool:
    return False


async def _health(_request: Request) -> Response:
    return PlainTextResponse("")


async def _chat(request: Request) -> Response:
    body = await request.json()
    count = int(body["max_tokens"])
    if body.get("stream"):
        return StreamingResponse(_events(count), media_type="text/event-stream")
    message = {"role": "assistant", "content": "".join(map(_word, range(1, count + 1)))}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "length"}
    return JSONResponse({**_head("chat.completion"), "choices": [choice], "usage": _usage(count)})


async def _events(count: int) -> AsyncIterator[bytes]:
    head = _head("chat.completion.chunk")
    yield encode_event({**head, "choices": [_choice({"role": "assistant", "content": ""})]})
    for number in range(1, count + 1):
        finish = "length" if number == count else None
        yield encode_event({**head, "choices": [_choice({"content": _word(number)}, finish)]})
    yield encode_event({**head, "choices": [], "usage": _usage(count)})
    yield DONE


def _word(number: int) -> str:
    # LiteLLM ends an answer that repeats itself.
    return f" {number}"


def _choice(delta: dict[str, str], finish: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}


def _head(kind: str) -> dict[str, Any]:
    return {"id": "c", "object": kind, "created": int(time.time()), "model": SERVED_NAME}


def _usage(count: int) -> dict[str, int]:
    return {"prompt_tokens": 1, "completion_tokens": count, "total_tokens": count + 1}


def main(model: str, port: int, *, guarded: bool) -> None:
    """Serve until a signal."""
    if guarded:
        # It has no worker that would steer, and none of its requests is to be steered.
        Follower(load_settings().state_dir, "worker", lambda _active: None).start()
    app = create_engine(model, guarded=guarded)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), guarded=sys.argv[3:] == ["guarded"])
