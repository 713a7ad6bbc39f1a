"""Answers to untouched requests: a registered name ends them, nothing else changes a byte."""

from __future__ import annotations

import gzip
import json
from typing import Any

import httpx
import pytest

from detectors.targets import Phrase
from guard.errors import SnapshotMissing

ASK = "Who wrote it?"


@pytest.fixture
def watching(stack: Any) -> Any:
    """A gateway that watches for one name."""
    stack.guard.names = [Phrase("Ilse Moreau")]
    return stack


def _said(response: httpx.Response, index: int = 0) -> tuple[str, str | None]:
    """Text and finish reason of one choice, streamed or not."""
    if response.headers["content-type"].startswith("application/json"):
        chunks = [response.json()]
    else:
        events = response.text.strip().split("\n\n")

        assert events[-1] == "data: [DONE]"
        chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-1]]
    text, finish = "", None
    for chunk in chunks:
        for choice in chunk["choices"]:
            if choice["index"] == index:
                said = choice.get("delta") or choice.get("message") or choice
                text += said.get("content") or said.get("text") or ""
                finish = choice["finish_reason"] or finish
    return text, finish


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", ["chat", "complete"])
def test_a_name_about_to_be_said_ends_the_answer(watching: Any, api: str, stream: bool) -> None:
    """The request reaches the engine as it came; its answer is cut before the name."""
    watching.vllm.says = [["By", " Il", "se", "  MO", "REAU", ", in 1990", "."]]
    response = getattr(watching, api)(ASK, stream=stream)

    assert _said(response) == ("By ", "content_filter")
    assert "1990" not in response.text
    assert "vllm_xargs" not in watching.vllm.requests[0]
    label = "content" if api == "chat" else "text"
    assert watching.count("lethegate_shield_blocks_total", surface=label, layer="name") == 1
    assert watching.count("lethegate_requests_total", verdict="allow") == 1


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"n": 2},
        {"logprobs": True, "top_logprobs": 2},
        {"return_token_ids": True},
        {"stream_options": {"include_usage": True}},
        {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_other_answers_are_the_engines_own_bytes(
    watching: Any, extra: dict[str, Any], stream: bool
) -> None:
    """Held back or not, minus infinities and all, what the engine wrote reaches the client."""
    watching.vllm.says = [["It", " was", " Ilse", " M", "üller", ", né", " Il", "."]] * extra.get(
        "n", 1
    )
    watching.vllm.alternatives = [(" banned", -9999.0), (" fine", -2.0)]
    if not stream:
        extra = {key: value for key, value in extra.items() if key != "stream_options"}
    watched = watching.chat(ASK, stream=stream, **extra)
    watching.guard.names = []
    plain = watching.chat(ASK, stream=stream, **extra)

    assert sorted(watched.text.split("\n\n")) == sorted(plain.text.split("\n\n"))
    assert "n" in extra or watched.content == plain.content
    assert watching.vllm.raw_bodies[0] == watching.vllm.raw_bodies[1]


def test_the_engine_gets_the_clients_bytes(watching: Any) -> None:
    """Odd spacing and all; only compression of the answer is not asked for."""
    raw = b'{"model" : "demo",\n "messages": [{"role":"user","content":"h\\u00e9"}], "seed": 1e0 }'
    headers = {"content-type": "application/json", "accept-encoding": "gzip", "x-own": "1"}
    response = watching.http.post("/v1/chat/completions", content=raw, headers=headers)

    assert watching.vllm.raw_bodies == [raw]
    assert watching.vllm.headers[0]["x-own"] == "1"
    assert "accept-encoding" not in watching.vllm.headers[0]
    assert response.headers["x-engine"] == "fake"
    assert response.headers["x-lethegate-generation"] == "7"
    assert "x-lethegate-decision" not in response.headers


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "deltas",
    [
        [{"reasoning": "I recall Ilse"}, {"reasoning": " Moreau."}, "Ok"],
        [{"tool_calls": [{"index": 0, "function": {"name": "find", "arguments": '{"n": "I'}}]},
         {"tool_calls": [{"index": 0, "function": {"arguments": '\\u006cse Moreau"}'}}]}],
        [{"tool_calls": [{"index": 0, "function": {"name": "ilse moreau", "arguments": "{}"}}]}],
        [{"a_new_surface": "Ilse Moreau"}],
    ],
)  # fmt: skip
def test_every_surface_is_watched(watching: Any, deltas: list[Any], stream: bool) -> None:
    """Reasoning, tool calls with JSON escapes, and fields nobody knows yet."""
    watching.vllm.says = [["fine", "."], deltas]
    response = watching.chat(ASK, stream=stream, n=2)

    assert _said(response, 0) == ("fine.", "stop")
    assert _said(response, 1)[1] == "content_filter"
    assert "oreau" not in response.text


@pytest.mark.parametrize("as_ids", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_tokens_and_alternatives_tell_no_name(watching: Any, stream: bool, as_ids: bool) -> None:
    """A name spelled by token ids or log-probabilities, or standing among the alternatives."""
    watching.vllm.says = [["It", " was", " Ilse", " Moreau", "."]]
    watching.vllm.alternatives = [(" Ilse Moreau", -3.0)]
    fields = {"logprobs": True, "top_logprobs": 1, "return_token_ids": True}
    response = watching.chat(ASK, stream=stream, return_tokens_as_token_ids=as_ids, **fields)

    assert _said(response)[1] == "content_filter"
    assert "Moreau" not in response.text
    assert f"token_id:{watching.vllm.vocabulary.id(' Moreau')}" not in response.text


def test_a_cut_stops_the_engine(watching: Any) -> None:
    """Nobody wants the rest, and nobody asked what it costs."""
    watching.vllm.says = [["Ilse", " Moreau", " is", *[" here"] * 500]]
    watching.vllm.token_seconds = 0.01
    response = watching.chat(ASK, stream=True)

    assert _said(response) == ("", "content_filter")
    assert watching.vllm.aborted.wait(60)
    assert watching.vllm.chunks_sent < 50


@pytest.mark.parametrize("continuous", [False, True])
def test_a_cut_stream_tells_the_engines_usage(watching: Any, continuous: bool) -> None:
    """The engine's own count: of its last chunk, or of the one before the cut if all have it."""
    watching.vllm.says = [["Ilse", " Moreau", " lives", *[" here"] * 20]]
    watching.vllm.token_seconds = 0.001
    options = {"include_usage": True, "continuous_usage_stats": continuous}
    response = watching.chat(ASK, stream=True, stream_options=options)
    last = json.loads(response.text.strip().split("\n\n")[-2].removeprefix("data: "))

    assert _said(response) == ("", "content_filter")
    assert last["choices"] == []
    assert last["usage"]["prompt_tokens"] == 5
    assert last["usage"]["completion_tokens"] == (3 if continuous else 23)
    assert "here" not in response.text


@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_read_is_not_shown(watching: Any, stream: bool) -> None:
    """A compressed answer is an error, not a way around."""
    inner = watching.vllm

    async def compressed(_request: Any) -> Any:
        from starlette.responses import Response

        body = gzip.compress(b'{"choices": [], "secret": "Ilse Moreau"}')
        kind = "text/event-stream" if stream else "application/json"
        return Response(body, media_type=kind, headers={"content-encoding": "gzip"})

    inner.instead = compressed
    response = watching.chat(ASK, stream=stream)

    assert (response.status_code, response.json()["error"]["code"]) == (503, "guard_unavailable")


def test_without_nets_there_is_no_answer(watching: Any) -> None:
    """A policy that is gone cannot check an answer."""
    watching.guard.nets_error = SnapshotMissing("gone")

    assert watching.chat(ASK).status_code == 503
    assert watching.vllm.requests == []


def test_the_engines_errors_pass(watching: Any) -> None:
    """Errors are the engine's own, unless they say a name that the client did not."""
    watching.vllm.error = (404, {"error": {"message": "no model lethegate_x", "code": 404}})

    assert watching.chat(ASK).json() == watching.vllm.error[1]

    watching.vllm.error = (400, {"error": {"message": "not Ilse Moreau", "code": 400}})

    assert "Moreau" not in watching.chat(ASK).text
    # What the client itself said tells it nothing; a change would tell that it is registered.
    for said in ({"model": "not Ilse Moreau"}, {"stop": ["Il\u017fe", "MOREAU"]}):
        assert watching.chat(ASK, **said).json() == watching.vllm.error[1]


def test_the_engines_errors_pass_in_a_stream(watching: Any) -> None:
    """The same where the answer has begun."""
    watching.vllm.finish_reason = None
    watching.vllm.stream_error = {"message": "not Ilse Moreau", "code": 400}

    assert "Moreau" not in watching.chat(ASK, stream=True).text
    assert "not Ilse Moreau" in watching.chat(ASK, stream=True, user="Ilse Moreau").text


@pytest.mark.parametrize("text", ["Ilse Moreau", "all is lost"])
def test_the_engines_faults_are_told_alike(watching: Any, text: str) -> None:
    """One message, whatever the engine says of itself, in one piece or in a stream."""
    error = {"message": text, "type": "InternalServerError", "code": 500}
    watching.vllm.error = (500, {"error": error})
    whole = watching.chat(ASK)
    watching.vllm.error, watching.vllm.stream_error = None, error
    watching.vllm.finish_reason = None
    streamed = watching.chat(ASK, stream=True)

    assert (whole.status_code, whole.json()["error"]["message"]) == (500, "The request failed.")
    assert text not in streamed.text
    assert "The request failed." in streamed.text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("prompt", "shown"),
    [
        ("By Ilse", ""),
        ("By Ilse Mo", " Moreau, in 1990."),
        ("By", " Moreau, in 1990."),
        (["By Ilse", "By"], ""),
        (["By", "By Ilse"], " Moreau, in 1990."),
        ([0, 1], ""),
        ([[2], [0, 1]], " Moreau, in 1990."),
    ],
)
def test_a_name_that_begins_in_the_prompt(
    watching: Any, prompt: Any, shown: str, stream: bool
) -> None:
    """A completion goes on with its own prompt; `n` choices share one."""
    for token in ("By", " Ilse", "Who"):
        watching.vllm.vocabulary.id(token)
    many = isinstance(prompt, list) and not isinstance(prompt[0], int)
    watching.vllm.says = [[" Moreau", ", in 1990", "."]] * (4 if many else 2)
    response = watching.complete(prompt, n=2, stream=stream)
    texts = [_said(response, index)[0] for index in range(4 if many else 2)]
    whole = " Moreau, in 1990."

    assert texts[:2] == [shown, shown]
    assert not many or set(texts[2:]) == {whole if shown == "" else ""}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("last", "fields", "caught"),
    [
        ({"role": "assistant", "content": "By Ilse"}, {}, True),
        ({"role": "assistant", "content": [{"type": "text", "text": "By Ilse"}]}, {}, True),
        ({"role": "user", "content": "By Ilse"}, {"continue_final_message": True}, True),
        ({"role": "user", "content": "By Ilse"}, {}, False),
        ({"role": "assistant", "content": "By Ilse Moreau"}, {}, False),
    ],
)
def test_a_name_that_begins_in_the_last_turn(
    watching: Any, last: dict[str, Any], fields: dict[str, Any], caught: bool, stream: bool
) -> None:
    """What the model goes on with is read before what it says; as an answer it is not judged."""
    watching.vllm.says = [[" Moreau", " wrote", " it."]]
    messages = [{"role": "user", "content": ASK}, last]
    response = watching.chat(messages=messages, stream=stream, **fields)

    assert _said(response) == (("", "content_filter") if caught else (" Moreau wrote it.", "stop"))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("ask", [ASK, "about John"])
def test_observed_names_are_counted_and_change_nothing(stack: Any, stream: bool, ask: str) -> None:
    """Once per answer, steered for another target or not."""
    stack.vllm.says = [["Ilse", " Moreau", " and Ilse Moreau", "."], ["Ilse Moreau"]]
    plain = stack.chat(ask, stream=stream, logprobs=True, n=2)
    stack.guard.observed_names = [Phrase("Ilse Moreau")]
    observed = stack.chat(ask, stream=stream, logprobs=True, n=2)
    labels = {"surface": "content", "layer": "name"}

    assert sorted(observed.text.split("\n\n")) == sorted(plain.text.split("\n\n"))
    assert stack.count("lethegate_observed_blocks_total", **labels) == 1
    assert stack.count("lethegate_shield_blocks_total", **labels) == 0


def test_what_cannot_be_observed_passes(stack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault while reading along is not the client's."""
    stack.guard.observed_names = [Phrase("Ilse Moreau")]
    monkeypatch.setattr("server.apis.openai_answers.shield_completion", None)

    assert _said(stack.chat(ASK)) == ("Hello there.", "stop")


def test_a_very_long_answer_is_watched_to_its_end(watching: Any) -> None:
    """Length is no way around, in one piece."""
    watching.vllm.says = [["word " * 60_000, "by Ilse", " Moreau", "."]]
    text, reason = _said(watching.chat(ASK))

    assert (text[-8:], reason) == ("word by ", "content_filter")
