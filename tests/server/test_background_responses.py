"""Responses that are made in the background, and retrieved by OpenAI's official client."""

from __future__ import annotations

import threading
from typing import Any

import openai
import pytest

from tests.server.responses_engine import client_of, says, wait_for


def test_a_response_in_the_background(stack: Any) -> None:
    """It is queued at once, guarded like any other, and then retrieved."""
    looked = threading.Event()
    stack.vllm.instead = says("It was John", " Smith", " then.", once=looked.is_set)
    with client_of(stack) as client:
        queued = client.responses.create(model="demo", input="about John", background=True)
        assert client.responses.retrieve(queued.id).status == "queued"
        with pytest.raises(openai.BadRequestError):
            client.responses.create(model="demo", input="x", previous_response_id=queued.id)
        looked.set()
        answer = wait_for(client, queued.id)

    assert queued.status == "queued"
    assert (answer.id, answer.status, answer.output_text) == (queued.id, "incomplete", "It was ")
    assert answer.background
    assert "lethegate_digest" in stack.vllm.requests[-1]["vllm_xargs"]


def test_a_failure_in_the_background_is_told(stack: Any) -> None:
    """The engine's own words are not."""
    stack.vllm.error = (500, {"error": {"message": "a secret", "code": 500}})
    with client_of(stack) as client:
        id_ = client.responses.create(model="demo", input="about John", background=True).id
        answer = wait_for(client, id_)

    assert answer.status == "failed"
    assert answer.error.message != "a secret"


def test_a_response_in_the_background_is_cancelled(stack: Any) -> None:
    """Once; what is complete cannot be."""
    stack.vllm.instead = says("Hello.", once=lambda: False)
    with client_of(stack) as client:
        id_ = client.responses.create(model="demo", input="hi", background=True).id
        assert client.responses.cancel(id_).status == "cancelled"
        assert client.responses.retrieve(id_).status == "cancelled"
        stack.vllm.instead = says("Hello.")
        done = client.responses.create(model="demo", input="hi").id
        for finished in (id_, done):
            with pytest.raises(openai.BadRequestError):
                client.responses.cancel(finished)


def test_a_long_response_in_the_background_is_told(start_stack: Any) -> None:
    """One whose answer is longer than what is kept has failed; a request that is so is a 413."""
    stack = start_stack(response_store_bytes=8000)
    stack.vllm.instead = says("x" * 8000)
    with client_of(stack) as client:
        id_ = client.responses.create(model="demo", input="hi", background=True).id
        answer = wait_for(client, id_)
        with pytest.raises(openai.APIStatusError) as caught:
            client.responses.create(model="demo", input="y" * 8000, background=True)

    assert (answer.id, answer.status, answer.error.code) == (id_, "failed", "server_error")
    assert "longer than what is kept" in answer.error.message
    assert answer.output == []
    assert (caught.value.status_code, caught.value.param) == (413, "background")
    assert len(stack.vllm.requests) == 1
