"""Generated requests to the gateway: no fault of its own, no hang, errors as each API has them.

The engine here answers whatever it is asked, so that every fault is the gateway's.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from guard.decision import Verdict
from server.admin_document import error_schema
from server.auth import Role
from server.sse import DONE, encode_event, encode_named_event

KEY = "admin-key"
USAGE = {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}
SAID = ("It was ", "John ", "Smith ", "then.")
# Texts with these letters are steered and refused, so that every third request or so is.
VERDICTS = {"0": Verdict.STEER, "1": Verdict.REFUSE}


def _chat(choices: int, *, streamed: bool, batch: bool) -> list[dict[str, Any]]:
    head = {"id": "c", "created": 1, "model": "demo"}
    if not streamed:
        message = {"role": "assistant", "content": "".join(SAID)}
        whole = {"message": message, "logprobs": None, "finish_reason": "stop"}
        each = [{"index": index, **whole} for index in range(choices)]
        return [{**head, "object": "chat.completion", "choices": each, "usage": USAGE}]
    chunk = {**head, "object": "chat.completion.chunk"}
    return [
        {**chunk, "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]}
        for text, finish in zip(SAID, (None, None, None, "stop"), strict=True)
    ]


def _completion(choices: int, *, streamed: bool) -> list[dict[str, Any]]:
    head = {"id": "c", "object": "text_completion", "created": 1, "model": "demo"}
    if not streamed:
        whole = {"text": "".join(SAID), "logprobs": None, "finish_reason": "stop"}
        each = [{"index": index, **whole} for index in range(choices)]
        return [{**head, "choices": each, "usage": USAGE}]
    return [
        {**head, "choices": [{"index": 0, "text": text, "finish_reason": finish}]}
        for text, finish in zip(SAID, (None, None, None, "stop"), strict=True)
    ]


def _message(*, streamed: bool) -> list[dict[str, Any]]:
    usage = {"input_tokens": 1, "output_tokens": 3}
    head = {"id": "m", "type": "message", "role": "assistant", "model": "demo"}
    if not streamed:
        content = [{"type": "text", "text": "".join(SAID)}]
        return [{**head, "content": content, "stop_reason": "end_turn", "usage": usage}]
    block = {"type": "text", "text": ""}
    deltas = [{"type": "text_delta", "text": text} for text in SAID]
    return [
        {
            "type": "message_start",
            "message": {**head, "content": [], "stop_reason": None, "usage": usage},
        },
        {"type": "content_block_start", "index": 0, "content_block": block},
        *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage},
        {"type": "message_stop"},
    ]


def _response(body: dict[str, Any], *, streamed: bool) -> list[dict[str, Any]]:
    head = {"id": body.get("request_id"), "object": "response", "model": "demo", "created_at": 1}
    head |= {"output": [], "status": "in_progress", "usage": None, "tools": []}
    part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed"}
    whole = {**item, "content": [{**part, "text": "".join(SAID)}]}
    usage = {"input_tokens": 1, "output_tokens": 3, "total_tokens": 4}
    done = {**head, "output": [whole], "status": "completed", "usage": usage}
    if not streamed:
        return [done]
    at = {"item_id": "msg_1", "output_index": 0, "content_index": 0, "logprobs": []}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": head},
        {"type": "response.output_item.added", "output_index": 0, "item": {**item, "content": []}},
        {"type": "response.content_part.added", **at, "part": part},
        *({"type": "response.output_text.delta", **at, "delta": text} for text in SAID),
        {"type": "response.output_item.done", "output_index": 0, "item": whole},
        {"type": "response.completed", "response": done},
    ]
    return [{**event, "sequence_number": number} for number, event in enumerate(events)]


async def engine(request: Request) -> Response:
    """Answers in the form of each API, as vLLM would a valid request."""
    body, path = await request.json(), request.url.path
    streamed = body.get("stream") is True and not path.endswith("/batch")
    named = path in ("/v1/messages", "/v1/responses")
    if path == "/v1/completions":
        payloads = _completion(_count(body.get("prompt")), streamed=streamed)
    elif path == "/v1/messages":
        payloads = _message(streamed=streamed)
    elif path == "/v1/responses":
        payloads = _response(body, streamed=streamed)
    else:
        batch = path.endswith("/batch")
        payloads = _chat(_count(body["messages"]) if batch else 1, streamed=streamed, batch=batch)
    if not streamed:
        return JSONResponse(payloads[0])
    events = [encode_named_event(p) if named else encode_event(p) for p in payloads]
    events += [] if named else [DONE]
    return StreamingResponse(iter(events), media_type="text/event-stream")


def _count(value: Any) -> int:
    return max(1, len(value)) if isinstance(value, list) else 1


@pytest.fixture
def fuzzed_stack(start_stack: Any) -> Any:
    """A gateway before that engine, with keys."""
    stack = start_stack(
        keys={KEY: Role.ADMIN, "client-key": Role.CLIENT}, response_store_bytes=100_000
    )
    stack.vllm.instead = engine
    stack.guard.verdicts = VERDICTS
    stack.http.headers["authorization"] = f"Bearer {KEY}"
    return stack


ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(("", "user", "assistant", "text", "message", "function", "auto", "0", "1"))
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(("role", "content", "type", "text", "name", "arguments", "id", "x")),
            inner,
            max_size=4,
        )
    ),
    max_leaves=6,
)
ROLES = st.sampled_from(("user", "assistant", "system", "tool"))
PART = st.fixed_dictionaries(
    {"type": st.sampled_from(("text", "input_text", "output_text", "tool_result")) | ANY},
    optional={"text": st.text(max_size=5) | ANY, "content": ANY, "annotations": ANY},
)
CONTENT = st.text(max_size=8) | st.lists(PART, max_size=2) | ANY
TURN = st.fixed_dictionaries(
    {"role": ROLES | ANY, "content": CONTENT},
    optional={"type": st.just("message") | ANY, "status": ANY, "tool_calls": ANY, "name": ANY},
) | st.fixed_dictionaries({"role": ROLES, "content": st.text(max_size=8)})
PROMPTS = {
    "/v1/chat/completions": ("messages", st.lists(TURN, max_size=3)),
    "/v1/chat/completions/batch": ("messages", st.lists(st.lists(TURN, max_size=2), max_size=2)),
    "/v1/completions": ("prompt", st.text(max_size=8) | st.lists(st.integers(0, 9), max_size=3)),
    "/v1/messages": ("messages", st.lists(TURN, max_size=3)),
    "/v1/responses": ("input", st.text(max_size=8) | st.lists(TURN, max_size=2)),
    "/v1/checks": ("messages", st.lists(TURN, max_size=2)),
}
FIELDS = (
    *("messages", "prompt", "input", "stream", "n", "logprobs", "top_logprobs", "echo", "tools"),
    *("tool_choice", "functions", "stop", "stop_token_ids", "response_format", "suffix", "store"),
    *("structured_outputs", "stream_options", "vllm_xargs", "model", "system", "instructions"),
    *("previous_response_id", "background", "request_id", "metadata", "text", "max_tokens"),
    *("max_completion_tokens", "chat_template", "chat_template_kwargs", "documents", "thinking"),
    *("continue_final_message", "return_token_ids", "include_reasoning", "output_config", "user"),
    *("guided_choice", "prompt_embeds", "truncation_side", "reasoning", "best_of", "top_p"),
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, bytes]:
    """A path and a body: a prompt in the right form, or in any, and a few other fields, as any."""
    path = draw(st.sampled_from(sorted(PROMPTS)))
    name, prompts = PROMPTS[path]
    body: dict[str, Any] = {"stream": draw(st.booleans())} if path != "/v1/checks" else {}
    body[name] = draw(prompts | ANY if draw(st.booleans()) else prompts)
    if path != "/v1/checks" or draw(st.booleans()):
        body |= draw(st.dictionaries(st.sampled_from(FIELDS), ANY, max_size=3))
    return path, json.dumps(body).encode()


def check_answer(path: str, response: Any) -> None:
    """Not a fault of the server; and an error has the shape of its API."""
    assert response.status_code < 500, (path, response.status_code, response.text)
    if response.status_code < 400:
        return
    error = response.json()["error"]
    if path == "/v1/messages":
        assert set(error) == {"type", "message"}
    else:
        assert set(error) == {"message", "type", "param", "code"}


def _send_many(stack: Any, examples: int, number: int) -> Counter[int]:
    seen: Counter[int] = Counter()

    @seed(number)
    @settings(
        max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(requests())
    def send(request: tuple[str, bytes]) -> None:
        path, raw = request
        headers = {"content-type": "application/json"}
        response = stack.http.post(path, content=raw, headers=headers, timeout=60)
        seen[response.status_code] += 1
        check_answer(path, response)

    send()
    return seen


def test_bodies_of_any_form_are_answered(fuzzed_stack: Any) -> None:
    """Fields of any type, at every endpoint, streamed or not, steered, refused or allowed."""
    seen = _send_many(fuzzed_stack, 400, 1)

    assert {200, 400} <= set(seen)


@pytest.mark.fuzz
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("number", range(3))
def test_many_bodies(fuzzed_stack: Any, number: int) -> None:
    """The same, many times."""
    seen = _send_many(fuzzed_stack, 10_000, number)
    print(f"\ngateway, bodies of any form, seed {number}: {seen.total()} requests, {dict(seen)}")


def _object(required: str = "", **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required.split()}


def document() -> dict[str, Any]:
    """An OpenAPI document of the open endpoints, as far as the gateway looks at them."""
    text, flag = {"type": "string", "maxLength": 40}, {"type": "boolean"}
    part = _object("type text", type={"enum": ["text"]}, text=text)
    content = {"anyOf": [text, {"type": "array", "items": part, "maxItems": 3}]}
    turn = _object("role content", role={"enum": ["user", "assistant"]}, content=content)
    turns = {"type": "array", "items": turn, "minItems": 1, "maxItems": 4}
    common = {"model": text, "stream": flag, "temperature": {"type": "number"}, "seed": {}}
    tokens = {"max_tokens": {"type": "integer", "minimum": 1, "maximum": 10}}
    options = _object(include_usage=flag, continuous_usage_stats=flag)
    openai = {**common, **tokens, "n": {"enum": [1]}, "stream_options": options, "logprobs": {}}
    ids = {"type": "array", "items": {"type": "integer", "minimum": 0}, "maxItems": 4}
    prompt = {"anyOf": [text, ids, {"type": "array", "items": text, "maxItems": 3}]}
    item = {"anyOf": [text, {"type": "array", "items": turn, "maxItems": 3}]}
    bodies = {
        "/v1/chat/completions": _object("messages", messages=turns, **openai),
        "/v1/chat/completions/batch": _object(
            "messages", messages={"type": "array", "items": turns, "maxItems": 3}
        ),
        "/v1/completions": _object("prompt", prompt=prompt, **openai),
        "/v1/messages": _object("messages", messages=turns, system=content, **common, **tokens),
        "/v1/responses": _object(
            "input", input=item, instructions=text, store=flag, background=flag, **common
        ),
        "/v1/checks": _object(text=text),
        "/tokenize": _object(prompt=text),
    }
    paths: dict[str, Any] = {
        path: {"post": _operation(path, {"content": {"application/json": {"schema": body}}})}
        for path, body in bodies.items()
    }
    id_ = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
    stored, cancelled = _operation("", None), _operation("", None)
    paths["/v1/responses/{id}"] = {"get": {**stored, "parameters": [id_]}}
    paths["/v1/responses/{id}/cancel"] = {"post": {**cancelled, "parameters": [id_]}}
    for path in ("/v1/models", "/version", "/readyz"):
        paths[path] = {"get": _operation(path, None, secured=path == "/v1/models")}
    return {
        "openapi": "3.1.0",
        "info": {"title": "gateway", "version": "1"},
        "paths": paths,
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def _operation(path: str, body: Any, *, secured: bool = True) -> dict[str, Any]:
    fault = error_schema()
    if path == "/v1/messages":
        own = _object("type message", type={"type": "string"}, message={"type": "string"})
        fault = _object("type error", type={"const": "error"}, error=own)
    error = {"description": "error", "content": {"application/json": {"schema": fault}}}
    kinds = ("application/json", "text/event-stream") if body else ("application/json",)
    good = {"description": "ok", "content": {kind: {"schema": {}} for kind in kinds}}
    responses = {"200": good} | dict.fromkeys(("400", "401", "403", "404", "413", "415"), error)
    found = {"responses": responses, "security": [{"key": []}] if secured else []}
    return found if body is None else {**found, "requestBody": {"required": True, **body}}


def _fuzz(stack: Any, fuzz: Callable[..., Any], **more: Any) -> Any:
    # The engine behind takes everything; and so does the gateway what it need not read.
    lenient = {"positive_data_acceptance", "negative_data_rejection"}
    checks = {name: {"enabled": False} for name in lenient}
    return fuzz(document(), stack.url, key=KEY, seconds=5, checks=checks, **more)


def test_a_documented_endpoint_answers_as_documented(fuzzed_stack: Any, fuzz: Any) -> None:
    """Statuses, types and errors, with and without a key."""
    found = _fuzz(fuzzed_stack, fuzz, examples=4)

    assert not found.faults, str(found)
    assert found.statuses[200] > 10


@pytest.mark.fuzz
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [1, 2])
def test_many_documented_requests(fuzzed_stack: Any, fuzz: Any, seed: int) -> None:
    """The same with every boundary, methods that are not there, and more examples."""
    found = _fuzz(fuzzed_stack, fuzz, examples=60, boundaries=True, seed=seed)
    print(f"\ngateway, documented requests, seed {seed}: {found}")

    assert not found.faults, str(found)
