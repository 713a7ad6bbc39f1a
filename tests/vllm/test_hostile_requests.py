"""Broken and hostile requests against the real server: the right error, and the server lives."""

import json
import socket
import time

import openai
import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(2400)]
CHAT = "/v1/chat/completions"


def body(pair, **changes):
    return {"model": pair.model, "messages": [{"role": "user", "content": "Hello?"}]} | changes


@pytest.fixture(autouse=True)
def lives(pair):
    yield

    answer = pair.http.post(CHAT, json=body(pair, max_tokens=4))
    assert answer.status_code == 200


def assert_error(answer, status):
    error = answer.json()["error"]

    assert answer.status_code == status
    assert {"message", "type", "param", "code"} <= error.keys()
    assert error["message"]
    return error


@pytest.mark.parametrize("raw", [b"{", b"", b"[]", b'"x"', b"\xff\xfe{}", b'{"a":1,"a":2}', b"NaN"])
def test_bodies_that_are_not_a_json_object(pair, raw):
    """Malformed JSON and invalid UTF-8 are a 400 in OpenAI's shape."""
    headers = {"content-type": "application/json"}

    assert_error(pair.http.post(CHAT, content=raw, headers=headers), 400)


@pytest.mark.parametrize(
    "changes",
    [
        {"messages": "hello"},
        {"messages": []},
        {"messages": [{"role": "user", "content": 5}]},
        {"messages": [{"role": 3, "content": "x"}]},
        {"temperature": "hot"},
        {"n": -1},
        {"max_tokens": "many"},
        {"vllm_xargs": {"lethegate_digest": "0"}},
        {"vllm_xargs": []},
    ],
)
def test_wrong_types(pair, changes):
    """Wrong types are a 400 that names no internals."""
    assert_error(pair.http.post(CHAT, json=body(pair, **changes)), 400)


def test_an_unknown_model(pair):
    """The official client sees NotFoundError, as from OpenAI."""
    with pytest.raises(openai.NotFoundError):
        pair.guarded.chat.completions.create(
            model="nobody", messages=[{"role": "user", "content": "x"}]
        )


def test_a_ten_megabyte_body(pair):
    """Too long a body is a 413 before it is read to the end."""
    long = body(pair, messages=[{"role": "user", "content": "a" * 10_000_000}])

    assert_error(pair.http.post(CHAT, json=long), 413)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/generative_scoring"),
        ("POST", "/invocations"),
        ("POST", "/inference/v1/generate"),
        ("POST", "/detokenize"),
        ("POST", "/v1/chat/completions/"),
        ("POST", "//v1/chat/completions"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
    ],
)
def test_endpoints_that_are_not_guarded_are_closed(pair, method, path):
    """Everything that is not guarded is a 403 in OpenAI's shape."""
    error = assert_error(pair.http.request(method, path, json={}), 403)

    assert error["code"] == "endpoint_not_guarded"


@pytest.mark.parametrize("path", ["/v1/models", "/health", "/version", "/metrics", "/readyz"])
def test_harmless_endpoints_pass(pair, path):
    """What tells nothing about the model's knowledge is open."""
    assert pair.http.get(path).status_code == 200


def test_tokenize_passes(pair):
    """Counting tokens needs no guard."""
    answer = pair.http.post("/tokenize", json={"model": pair.model, "prompt": "Hello"})

    assert answer.json()["count"] > 0


@pytest.mark.parametrize("steered", [True, False])
def test_a_client_that_hangs_up_frees_the_engine(pair, forget_rows, other_rows, steered):
    """vLLM aborts the request of a client that disconnects in mid-stream, steered or not."""
    row = (forget_rows if steered else other_rows)[0]
    messages = [{"role": "user", "content": row["question"]}]
    long = body(pair, messages=messages, stream=True, ignore_eos=True, max_tokens=450)
    raw = json.dumps(long).encode()
    url = pair.http.base_url
    with socket.create_connection((url.host, url.port)) as connection:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw)

        assert connection.recv(4096).startswith(b"HTTP/1.1 200")

    deadline = time.monotonic() + 60
    while pair.metric("vllm:num_requests_running") or pair.metric("vllm:num_requests_waiting"):
        assert time.monotonic() < deadline, "the request still runs"
        time.sleep(0.02)


def test_our_errors_do_not_repeat_what_was_said(pair):
    """An error of the gateway never quotes the request."""
    secret = "Zanzibarqux"
    for changes in ({"messages": secret}, {"vllm_xargs": {f"lethegate_{secret}": secret}}):
        answer = pair.http.post(CHAT, json=body(pair, **changes))

        assert answer.status_code == 400
        assert secret not in answer.text
