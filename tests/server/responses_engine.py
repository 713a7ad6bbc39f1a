"""An engine of the Responses API, and OpenAI's client that asks for its answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import openai
from openai.types.responses import Response as Answer
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from server.sse import encode_named_event

_USAGE = {"input_tokens": 3, "output_tokens": 3, "total_tokens": 6}
_PART = {"type": "output_text", "annotations": [], "logprobs": []}


def message(text: str) -> dict[str, Any]:
    """An item of an answer."""
    content = [{**_PART, "text": text}]
    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed"}
    return {**item, "content": content}


def _events(head: dict[str, Any], parts: tuple[str, ...]) -> Iterator[bytes]:
    at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    whole = message("".join(parts))
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


def says(*parts: str, once: Callable[[], bool] = lambda: True) -> Any:
    """An engine that says these tokens in the Responses API's form, once a condition holds."""

    async def answer(request: Request) -> Response:
        body = await request.json()
        id_ = body.get("request_id") or f"resp_{time.monotonic_ns()}"
        head = {"id": id_, "object": "response", "model": "demo", "created_at": 1, "output": []}
        head |= {"status": "in_progress", "background": False, "incomplete_details": None}
        head |= {"previous_response_id": body.get("previous_response_id"), "usage": None}
        head |= {"instructions": None, "tools": [], "parallel_tool_calls": True}
        while not once():  # noqa: ASYNC110  (by another thread)
            await asyncio.sleep(0.01)
        if body.get("stream"):
            return StreamingResponse(_events(head, parts), media_type="text/event-stream")
        output = {"output": [message("".join(parts))], "status": "completed", "usage": _USAGE}
        return JSONResponse({**head, **output})

    return answer


def client_of(stack: Any, key: str = "none") -> openai.OpenAI:
    """OpenAI's client of a gateway, with a key of it."""
    return openai.OpenAI(base_url=f"{stack.url}/v1", api_key=key, max_retries=0)


def whole_and_streamed(stack: Any, text: str, **fields: Any) -> list[Answer]:
    """The answer in one piece and streamed."""
    with client_of(stack) as client:
        whole = client.responses.create(model="demo", input=text, **fields)
        with client.responses.create(model="demo", input=text, stream=True, **fields) as stream:
            *_, last = stream
    return [whole, last.response]


def wait_for(client: openai.OpenAI, id_: str) -> Answer:
    """A response that was made in the background."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        answer = client.responses.retrieve(id_)
        if answer.status != "queued":
            return answer
        time.sleep(0.02)
    raise AssertionError("the response was not made")
