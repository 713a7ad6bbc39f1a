"""Steered answers on the wire: held back, cut, ended, and otherwise the engine's own bytes."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from detectors.targets import Phrase
from guard.ledger import CloseReason

ASK = "about John"


def _chunks(response: httpx.Response) -> list[dict[str, Any]]:
    """The JSON events of a stream that ends as it should."""
    events = response.text.strip().split("\n\n")

    assert events[-1] == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in events[:-1]]


def _said(response: httpx.Response, index: int = 0) -> tuple[str, str | None]:
    """The text and the finish reason of one choice, streamed or not."""
    if response.headers["content-type"].startswith("application/json"):
        choice = response.json()["choices"][index]
        return choice.get("text", (choice.get("message") or {}).get("content")), choice[
            "finish_reason"
        ]
    text, finish = "", None
    for chunk in _chunks(response):
        for choice in chunk["choices"]:
            if choice["index"] == index:
                text += choice.get("text") or choice.get("delta", {}).get("content") or ""
                finish = choice["finish_reason"] or finish
    return text, finish


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", ["chat", "complete"])
def test_a_forbidden_phrase_is_cut_and_the_answer_ends(stack: Any, api: str, stream: bool) -> None:
    """Text before the phrase stays; the finish reason tells why it ends; both ways agree."""
    stack.vllm.says = [["It", " was", " John", " Sm", "ith", ", a baker", "."]]
    response = getattr(stack, api)(ASK, stream=stream)

    assert _said(response) == ("It was ", "content_filter")
    assert "Smith" not in response.text
    assert "baker" not in response.text
    label = "content" if api == "chat" else "text"
    assert stack.count("lethegate_shield_blocks_total", surface=label, layer="phrase") == 1


@pytest.mark.parametrize(
    "extra", [{}, {"logprobs": True, "top_logprobs": 2}, {"return_token_ids": True}]
)
@pytest.mark.parametrize("usage", [False, True])
def test_an_unblocked_steered_stream_is_the_engines_own_bytes(
    stack: Any, extra: dict[str, Any], usage: bool
) -> None:
    """Held back or not, every event reaches the client as the engine wrote it."""
    stack.vllm.says = [["It", " was", " John", " Doe", ", né", " Johnny", "."]]
    fields = {
        "stream": True,
        **extra,
        **({"stream_options": {"include_usage": True}} if usage else {}),
    }
    plain = stack.chat("hello", **fields)
    steered = stack.chat(ASK, **fields)

    assert steered.text == plain.text
    assert stack.vllm.requests[1]["vllm_xargs"]["lethegate_targets"] == [0]


def test_an_unblocked_steered_answer_is_the_engines_own_bytes(stack: Any) -> None:
    """The same for an answer in one piece."""
    assert stack.chat(ASK).content == stack.chat("hello").content


def test_text_is_streamed_while_it_is_generated(stack: Any) -> None:
    """The shield holds back only what may become a phrase, not the answer."""
    stack.vllm.says = [[f" word{i}" for i in range(20)]]
    stack.vllm.waits_after = 10
    body = {"messages": [{"role": "user", "content": ASK}], "stream": True}
    with stack.http.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = (line for line in response.iter_lines() if "word" in line)
        first = next(lines)
        generated = stack.vllm.chunks_sent
        stack.vllm.waits_after = None
        rest = list(lines)

    assert "word0" in first
    assert generated <= 10
    assert "word19" in rest[-1]


def test_a_block_stops_the_engine(stack: Any) -> None:
    """When nothing more can be said the engine's request is aborted."""
    stack.vllm.says = [["John", " Smith", " is", *[" here"] * 500]]
    stack.vllm.token_seconds = 0.01
    response = stack.chat(ASK, stream=True)

    assert _said(response) == ("", "content_filter")
    assert stack.vllm.aborted.wait(60)
    assert stack.vllm.chunks_sent < 50


@pytest.mark.parametrize("text", ["hello", ASK])
def test_a_client_that_leaves_stops_the_engine(stack: Any, text: str) -> None:
    """A disconnect in mid-stream reaches the engine, steered or not."""
    stack.vllm.says = [[" word"] * 1000]
    stack.vllm.token_seconds = 0.05
    body = {"messages": [{"role": "user", "content": text}], "stream": True}
    with stack.http.stream("POST", "/v1/chat/completions", json=body) as response:
        next(response.iter_lines())

    assert stack.vllm.aborted.wait(60)
    assert stack.vllm.chunks_sent < 500


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
def test_a_client_that_leaves_is_no_fault_of_the_shield(stack: Any, path: str) -> None:
    """vLLM's handlers then answer nobody with nothing, which must raise no alert."""

    async def nothing(_request: Request) -> Response:
        return JSONResponse(None)

    stack.vllm.instead = nothing
    messages = [{"role": "user", "content": ASK}]
    body = {"model": "demo", "messages": messages, "max_tokens": 5, "input": ASK, "store": False}
    response = stack.http.post(path, json=body)

    assert response.status_code == 503
    assert response.json()["error"]["message"]
    assert stack.count("lethegate_shield_blocks_total", surface="other", layer="other") == 0


@pytest.mark.parametrize("stream", [False, True])
def test_other_choices_go_on(stack: Any, stream: bool) -> None:
    """A block ends one choice of several."""
    stack.vllm.says = [["John", " Smith"], ["Nobody", " knows", "."]]
    response = stack.chat(ASK, n=2, stream=stream)

    assert _said(response, 0) == ("", "content_filter")
    assert _said(response, 1) == ("Nobody knows.", "stop")


def test_a_cut_stream_still_tells_the_usage(stack: Any) -> None:
    """Tokens used up to the cut are told when the client asked for usage."""
    stack.vllm.says = [["John", " Smith", " lives", *[" here"] * 200]]
    stack.vllm.token_seconds = 0.005
    chunks = _chunks(stack.chat(ASK, stream=True, stream_options={"include_usage": True}))

    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["prompt_tokens"] == 5
    assert chunks[-1]["usage"]["completion_tokens"] in (2, 3)
    assert all("usage" not in chunk for chunk in chunks[:-1])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "deltas",
    [
        [{"reasoning": "I recall John"}, {"reasoning": " Smith."}, "Ok"],
        [{"refusal": "Not John Smith"}],
        [{"tool_calls": [{"index": 0, "function": {"name": "find", "arguments": '{"n": "J'}}]},
         {"tool_calls": [{"index": 0, "function": {"arguments": '\\u006fhn Smith"}'}}]}],
        [{"tool_calls": [{"index": 0, "function": {"name": "john smith", "arguments": "{}"}}]}],
        [{"a_new_surface": "John Smith"}],
    ],
)  # fmt: skip
def test_every_surface_is_shielded(stack: Any, deltas: list[Any], stream: bool) -> None:
    """Reasoning, refusals, tool calls (with JSON escapes) and unknown fields are cut alike."""
    stack.vllm.says = [deltas]
    response = stack.chat(ASK, stream=stream)

    assert _said(response)[1] == "content_filter"
    assert "mith" not in response.text


@pytest.mark.parametrize("as_ids", [False, True])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", ["chat", "complete"])
def test_logprobs_tell_no_forbidden_token(stack: Any, api: str, stream: bool, as_ids: bool) -> None:
    """Tokens of a cut text are gone from logprobs, and so are banned and telling alternatives."""
    stack.vllm.says = [["It", " was", " John", " Smith", "."]]
    stack.vllm.alternatives = [(" banned", -9999.0), (" John Smith", -3.0), (" fine", -2.0)]
    fields = {"logprobs": 3} if api == "complete" else {"logprobs": True, "top_logprobs": 3}
    response = getattr(stack, api)(ASK, stream=stream, return_tokens_as_token_ids=as_ids, **fields)

    assert _said(response)[1] == "content_filter"
    assert "Smith" not in response.text
    assert "banned" not in response.text
    assert f"token_id:{stack.vllm.vocabulary.id(' Smith')}" not in response.text


@pytest.mark.parametrize("as_ids", [False, True])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", ["chat", "complete"])
def test_alternatives_tell_no_phrase(stack: Any, api: str, stream: bool, as_ids: bool) -> None:
    """Also where the engine names them by their ids, as it does then, and nothing is cut."""
    stack.vllm.says = [["It", " was", " nobody", "."]]
    stack.vllm.alternatives = [(" John Smith", -3.0), (" fine", -2.0)]
    fields = {"logprobs": 2} if api == "complete" else {"logprobs": True, "top_logprobs": 2}
    response = getattr(stack, api)(ASK, stream=stream, return_tokens_as_token_ids=as_ids, **fields)
    telling, fine = map(stack.vllm.vocabulary.id, (" John Smith", " fine"))
    told = [f'"token_id:{telling}"', f'"token_id:{fine}"'] if as_ids else ["John Smith", " fine"]

    assert _said(response) == ("It was nobody.", "stop")
    assert told[0] not in response.text
    assert told[1] in response.text


def test_token_ids_do_not_run_ahead_of_the_text(stack: Any) -> None:
    """Ids that spell a phrase are held although the text of the event is harmless."""
    stack.vllm.says = [["It", " was", " John", " Smith", "."]]
    response = stack.chat(ASK, stream=True, return_token_ids=True)
    ids = [i for chunk in _chunks(response) for i in chunk["choices"][0].get("token_ids") or ()]

    assert stack.vllm.vocabulary.decode(ids) == "It was"


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_does_not_tell_the_phrase(stack: Any, stream: bool) -> None:
    """The stop string that cut a phrase off is part of the judged text."""
    stack.vllm.says = [["It was", " John S"]]
    stack.vllm.stop_reason = "mith"
    response = stack.chat(ASK, stream=stream, stop=["mith"])

    assert _said(response)[1] == "content_filter"
    assert "mith" not in response.text


@pytest.mark.parametrize("stream", [False, True])
def test_a_closed_slot_ends_with_content_filter(stack: Any, stream: bool) -> None:
    """When the worker had nothing left to say, the client is told so."""
    stack.guard.close_reason = CloseReason.NOTHING_LEFT

    assert _said(stack.chat(ASK, stream=stream)) == ("Hello there.", "content_filter")
    assert stack.guard.nonces[-1] == stack.vllm.requests[0]["vllm_xargs"]["lethegate_nonce"]


def test_a_slot_closed_by_a_fault_is_unavailable(stack: Any) -> None:
    """When the worker could not guard the request, nothing of its answer is shown."""
    stack.guard.close_reason = CloseReason.SNAPSHOT_UNAVAILABLE
    response = stack.chat(ASK)

    assert (response.status_code, response.json()["error"]["code"]) == (503, "guard_unavailable")
    assert "retry-after" in response.headers


def test_a_forced_end_inside_a_grammar_is_content_filter(stack: Any) -> None:
    """vLLM's 500 for a steered structured output becomes a filtered completion."""
    stack.vllm.error = (500, {"error": {"message": "Internal server error", "code": 500}})
    response = stack.chat(ASK, response_format={"type": "json_object"})

    assert response.status_code == 200
    assert _said(response) == ("", "content_filter")


def test_a_forced_end_inside_a_streamed_grammar_is_content_filter(stack: Any) -> None:
    """The same in a stream, where vLLM writes an error event."""
    stack.vllm.says = [["{", '"a"']]
    stack.vllm.finish_reason = None  # type: ignore[assignment]
    stack.vllm.stream_error = {"message": "Internal server error", "code": 500}
    response = stack.chat(ASK, stream=True, response_format={"type": "json_object"})

    assert _said(response) == ('{"a"', "content_filter")


def test_an_error_that_quotes_our_parameters_is_replaced(stack: Any) -> None:
    """An engine error may not tell the client that the request was steered."""
    quoted = {"error": {"message": "bad lethegate_targets: [0]", "code": 400}}
    stack.vllm.error = (400, quoted)
    response = stack.chat(ASK)

    assert response.status_code == 400
    assert "lethegate" not in response.text
    stack.vllm.error = (400, {"error": {"message": "n is too large", "code": 400}})

    assert stack.chat(ASK).json()["error"]["message"] == "n is too large"


def test_an_engine_that_dies_in_mid_stream_ends_the_stream(stack: Any) -> None:
    """The client gets what was certain, an error event and [DONE]; it never hangs."""
    stack.vllm.says = [["It", " was", " John", " S"]]
    stack.vllm.dies_after = 3
    events = stack.chat(ASK, stream=True).text.strip().split("\n\n")

    assert events[-1] == "data: [DONE]"
    assert json.loads(events[-2].removeprefix("data: "))["error"]["code"] == "engine_error"


def test_a_shield_that_fails_closes_the_stream(stack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any error of ours ends the answer with content_filter, and is counted."""
    stack.vllm.says = [["one", {"content": 5}, " two", " three"]]
    monkeypatch.setattr(
        "server.stream_shield.metric_label", lambda _: (_ for _ in ()).throw(RuntimeError)
    )
    stack.guard.forbidden = [Phrase("two")]
    response = stack.chat(ASK, stream=True)

    assert _chunks(response)[-1]["choices"][0]["finish_reason"] == "content_filter"
    assert "two" not in response.text
    assert stack.count("lethegate_shield_blocks_total", surface="other", layer="other") == 1
