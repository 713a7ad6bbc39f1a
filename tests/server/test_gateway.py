"""The gateway as clients meet it: what passes, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from server.auth import Role
from tests.server.error_shape import error_of


def _client(stack: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{stack.url}/v1", api_key="none", max_retries=0)


def test_an_allowed_request_goes_on_byte_for_byte(stack: Any) -> None:
    """The engine gets the client's bytes, odd spacing and all, and its answer comes back alone."""
    raw = b'{"model" : "demo",\n "messages": [{"role":"user","content":"h\\u00e9"}], "seed": 1e0 }'
    response = stack.http.post(
        "/v1/chat/completions", content=raw, headers={"content-type": "application/json"}
    )

    assert stack.vllm.raw_bodies == [raw]
    assert response.status_code == 200
    assert response.headers["x-engine"] == "fake"
    assert response.headers["x-lethegate-generation"] == "7"
    assert "x-lethegate-decision" not in response.headers
    assert stack.guard.screened == [["hé"]]
    assert stack.count("lethegate_requests_total", verdict="allow") == 1


def test_a_steered_request_carries_the_decision(stack: Any) -> None:
    """The guard's parameters join the client's own, and nothing else changes."""
    stack.chat("about John", seed=3, vllm_xargs={"own": 1})
    sent = stack.vllm.requests[0]
    xargs = sent.pop("vllm_xargs")

    assert xargs.pop("own") == 1
    assert 0 < xargs.pop("lethegate_nonce") < 2**53
    assert xargs == {"lethegate_digest": "d" * 64, "lethegate_targets": [0], "lethegate_items": []}
    assert sent["seed"] == 3
    assert stack.vllm.headers[0].get("accept-encoding") is None


@pytest.mark.parametrize("n", [1, 2])
def test_a_refusal_is_a_normal_completion(stack: Any, n: int) -> None:
    """The official client reads a refused chat; vLLM is never asked."""
    answer = _client(stack).chat.completions.create(
        model="demo", messages=[{"role": "user", "content": "about Mary"}], n=n
    )

    assert len(answer.choices) == n
    for choice in answer.choices:
        assert choice.finish_reason == "content_filter"
        assert choice.message.content == choice.message.refusal
        assert choice.message.content
    assert answer.usage is not None
    assert answer.usage.total_tokens == 0
    assert stack.vllm.requests == []
    assert stack.count("lethegate_refusals_total") == 1


def test_a_streamed_refusal_reads_like_the_whole_one(stack: Any) -> None:
    """The official client reads a streamed refusal, with usage if it asked."""
    chunks = list(
        _client(stack).chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": "about Mary"}],
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)

    assert text == stack.chat("about Mary").json()["choices"][0]["message"]["content"]
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None, None, "content_filter"]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage is not None


@pytest.mark.parametrize("stream", [False, True])
def test_a_completion_is_refused_per_prompt(stack: Any, stream: bool) -> None:
    """Legacy completions are refused in their own shape, one choice per prompt and n."""
    answer: Any = _client(stack).completions.create(
        model="demo", prompt=["about Mary", "hi"], n=2, stream=stream
    )
    choices = [c for chunk in answer for c in chunk.choices] if stream else answer.choices
    finished = [c for c in choices if c.finish_reason == "content_filter"]

    assert sorted(c.index for c in finished) == [0, 1, 2, 3]


def test_a_refusal_can_be_an_error(start_stack: Any) -> None:
    """With refusal_mode=error the official client raises, streamed or not."""
    stack = start_stack(refusal_mode="error")
    with pytest.raises(openai.BadRequestError) as caught:
        _client(stack).chat.completions.create(
            model="demo", messages=[{"role": "user", "content": "about Mary"}], stream=True
        )

    assert (caught.value.code, caught.value.param) == ("content_filter", "messages")


def test_the_official_client_sees_a_cut_stream(stack: Any) -> None:
    """A cut tool call and a cut text end regularly for the official client."""
    stack.vllm.says = [["It was ", "John", " Smith", "."]]
    chunks = _client(stack).chat.completions.create(
        model="demo", messages=[{"role": "user", "content": "about John"}], stream=True
    )
    seen = [(c.choices[0].delta.content, c.choices[0].finish_reason) for c in chunks]

    assert seen[1:] == [("It was ", None), (None, "content_filter")]


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/v1/models", 200),
        ("HEAD", "/v1/models", 200),
        ("GET", "/health", 200),
        ("GET", "/version", 200),
        ("POST", "/tokenize", 200),
        ("POST", "/detokenize", 403),
        ("POST", "/generative_scoring", 403),
        ("POST", "/v1/chat/completions/", 403),
        ("POST", "//v1/chat/completions", 403),
        ("POST", "/V1/chat/completions", 403),
        ("POST", "/v1/chat/completions%3Fx", 403),
        ("POST", "/v1/chat/completions%00", 403),
        ("POST", "/", 403),
        ("GET", "/docs", 403),
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/models", 405),
        ("OPTIONS", "/v1/chat/completions", 405),
    ],
)
def test_only_listed_routes_are_open(stack: Any, method: str, path: str, expected: int) -> None:
    """Routes are compared exactly; whatever is not listed is closed."""
    response = stack.http.send(stack.http.build_request(method, stack.url + path, json={}))

    assert response.status_code == expected
    assert stack.vllm.requests == []
    if expected == 403:
        assert error_of(response) == (403, "endpoint_not_guarded")


def test_an_encoded_slash_is_guarded_like_a_slash(stack: Any) -> None:
    """A path that the engine would route to a guarded endpoint is guarded."""
    url = f"{stack.url}/v1%2Fchat/completions"
    response = stack.http.post(url, json={"messages": [{"role": "user", "content": "about Mary"}]})

    assert response.json()["choices"][0]["finish_reason"] == "content_filter"


def test_keys_are_required_where_there_are_client_keys(start_stack: Any) -> None:
    """Strangers get an OpenAI 401; probes need no key; admins are told the decision.

    Metrics would tell a client what was steered, so they need an auditor's key.
    """
    stack = start_stack(keys={"k": Role.CLIENT, "u": Role.AUDITOR, "a": Role.ADMIN})
    body = {"messages": [{"role": "user", "content": "about John"}]}

    def post(key: str | None) -> Any:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return stack.http.post("/v1/chat/completions", json=body, headers=headers)

    assert error_of(post(None)) == (401, "invalid_api_key")
    assert error_of(post("x")) == (401, "invalid_api_key")
    assert stack.http.get("/v1/models").status_code == 401
    found = [
        stack.http.get("/metrics", headers={"authorization": f"Bearer {key}"}).status_code
        for key in ("x", "k", "u", "a")
    ]
    assert found == [401, 403, 404, 404]  # the fake engine has none
    assert stack.http.get("/health").status_code == 200
    assert "x-lethegate-decision" not in post("k").headers
    assert post("a").headers["x-lethegate-decision"] == "steer"


@pytest.mark.parametrize("says", [["It was he."], ["It was John", " Smith."]])
def test_only_auditors_are_told_what_the_worker_prevented(start_stack: Any, says: Any) -> None:
    """With a whole answer, cut or not, where there was anything."""
    stack = start_stack(keys={"k": Role.CLIENT, "u": Role.AUDITOR})
    stack.vllm.says = [says]

    def told(key: str, text: str = "about John", **fields: Any) -> Any:
        body = {"messages": [{"role": "user", "content": text}], **fields}
        headers = {"authorization": f"Bearer {key}"}
        answer = stack.http.post("/v1/chat/completions", json=body, headers=headers)
        return answer.headers.get("x-lethegate-prevented-steps")

    assert told("u") is None
    stack.guard.prevented_steps = 2
    assert told("u") == "2"
    assert told("u", "Hello?") is None
    assert told("u", stream=True) is None
    assert told("k") is None


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", "malformed_body"),
        (b"{", "malformed_body"),
        (b"[]", "malformed_body"),
        (b"\xff\xfe{\x00}\x00", "malformed_body"),
        (b'{"messages": "\xff"}', "malformed_body"),
        (b'{"messages": [], "messages": []}', "malformed_body"),
        (b'{"messages": [{"role": "user", "content": "a", "content": "b"}]}', "malformed_body"),
        (b'{"temperature": NaN}', "malformed_body"),
        (b'{"temperature": 1e999}', "malformed_body"),
        (b'{"messages": [{"content": "\\ud800"}]}', "malformed_body"),
        (b'{"a": ' + b"[" * 100_000, "malformed_body"),
        (b'{"seed": ' + b"1" * 5000 + b"}", "malformed_body"),
        (b'{"messages": "hi"}', "invalid_request"),
        (b'{"messages": ["hi"]}', "invalid_request"),
        (b'{"messages": [], "vllm_xargs": {"lethegate_digest": "x"}}', "reserved_parameter"),
        (b'{"messages": [], "lethegate_off": true}', "reserved_parameter"),
        (b'{"messages": [], "vllm_xargs": [1]}', "invalid_request"),
    ],
)
def test_a_body_that_cannot_be_read_goes_no_further(stack: Any, body: bytes, expected: str) -> None:
    """What two JSON readers could take differently is a 400, and the engine never sees it."""
    response = stack.http.post(
        "/v1/chat/completions", content=body, headers={"content-type": "application/json"}
    )

    assert error_of(response) == (400, expected)
    assert stack.vllm.requests == []


def test_long_and_foreign_bodies_are_refused(start_stack: Any) -> None:
    """A declared or a chunked body over the limit is a 413; another type is a 415."""
    stack = start_stack(max_body_bytes=2000)
    url, json_type = "/v1/chat/completions", {"content-type": "application/json"}

    assert error_of(stack.http.post(url, content=b"x" * 3000, headers=json_type))[0] == 413
    assert (
        error_of(stack.http.post(url, content=iter([b"x" * 900] * 9), headers=json_type))[0] == 413
    )
    assert error_of(stack.http.post(url, content=b"{}"))[0] == 415
    assert stack.vllm.requests == []
    # What passes unguarded is bounded, too.
    assert error_of(stack.http.post("/tokenize", content=b"x" * 3000))[0] == 413
    assert error_of(stack.http.post("/tokenize", content=iter([b"x" * 900] * 9)))[0] == 413
    assert stack.http.post("/tokenize", content=b"x" * 1900).json()["count"] == 2


@pytest.mark.parametrize(
    ("api", "fields"),
    [
        ("complete", {"prompt_embeds": "AAAA"}),
        ("complete", {"echo": True}),
        ("complete", {"truncate_prompt_tokens": 9, "truncation_side": "right"}),
        ("complete", {"use_beam_search": True}),
        ("chat", {"use_beam_search": 1}),
        ("chat", {"prompt_logprobs": 0}),
        ("chat", {"logprobs": True, "logprob_token_ids": [7]}),
        ("chat", {"echo": True}),
        ("chat", {"kv_transfer_params": {"prompt_token_ids": [1, 2]}}),
        ("chat", {"chat_template": "{{ messages }}"}),
        ("chat", {"chat_template_kwargs": {"chat_template": "x"}}),
        ("chat", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
        ("chat", {"messages": [{"role": "user", "content": [{"type": "text", "image_url": "x"}]}]}),
    ],
)
def test_what_cannot_be_guarded_is_refused_while_a_target_is_enforced(
    stack: Any, api: str, fields: dict[str, Any]
) -> None:
    """Such requests are a 400 under an enforced target, and plain vLLM's business without one."""
    status, code = error_of(getattr(stack, api)(**fields))

    assert (status, code) == (400, "unsupported_feature")
    assert stack.vllm.requests == []
    stack.guard.view = type(stack.guard.view)(enforces=False)

    assert getattr(stack, api)(**fields).status_code == 200


def test_token_id_prompts_are_read(stack: Any) -> None:
    """A prompt of token ids is decoded and judged like text."""
    ids = [stack.vllm.vocabulary.id(token) for token in ("about", " Mary")]

    assert stack.complete(ids).json()["choices"][0]["finish_reason"] == "content_filter"
    assert stack.complete([[0], ids]).json()["choices"][0]["finish_reason"] == "content_filter"
    assert error_of(stack.complete([99])) == (400, "invalid_request")
    assert error_of(stack.complete([True])) == (400, "invalid_request")
    assert error_of(stack.complete(["a", 1])) == (400, "invalid_request")


def test_a_refusal_keeps_the_clients_request_id(stack: Any) -> None:
    """A refusal's id is formed as the engine forms it."""
    body = {"messages": [{"role": "user", "content": "about Mary"}]}
    headers = {"x-request-id": "abc"}
    answer = stack.http.post("/v1/chat/completions", json=body, headers=headers)

    assert answer.json()["id"] == "chatcmpl-abc"


def test_nothing_textual_is_in_the_metrics(stack: Any) -> None:
    """After steering, refusing and cutting, no metric holds a word of it."""
    stack.vllm.says = [["John", " Smith"]]
    for text in ("about John", "about Mary", "hello"):
        stack.chat(text)
    names = [json.dumps([s.name, s.labels]) for m in stack.registry.collect() for s in m.samples]

    assert not any(word in name for name in names for word in ("John", "Mary", "hello"))
