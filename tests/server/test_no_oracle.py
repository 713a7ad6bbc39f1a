"""A client cannot learn from the guard what is registered, beyond that it was refused.

The real screening with targets of very different sizes, behind the gateway, before a fake engine.
"""

from __future__ import annotations

import json
import re
import time
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from detectors.targets import Action, Example, ForgetTarget, Phrase
from guard.compiler import compile_policy
from guard.follower import ActivePointer
from guard.vocabulary import Vocabulary
from server import screening as module
from server.auth import KeyRing, Role
from server.metrics.gateway import GatewayMetrics
from server.screening import Screening
from server.settings import Settings
from tests.hash_encoder import HashEncoder

KEY = {"authorization": "Bearer k"}
REFUSED = {
    "a": ForgetTarget(
        "a",
        aliases=("Ada Vex",),
        examples=(Example("Who wrote Salt?", "Ada Vex."),),
        action=Action.REFUSE,
    ),
    "the-order-of-the-long-name": ForgetTarget(
        "the-order-of-the-long-name",
        aliases=("Maximiliana Theodora Featherstonehaugh-Cholmondeley",),
        examples=tuple(Example(f"Where is hall {n}?", f"In wing {n} of it.") for n in range(9)),
        phrases=tuple(Phrase(f"velvet corridor {n}") for n in range(50)),
        labels={"law": "gdpr"},
        action=Action.REFUSE,
    ),
}
STEERED = ForgetTarget(
    "s", aliases=("Orla Quist",), examples=(Example("Who painted Sand?", "Orla Quist did."),)
)
ASKED = {"a": "Tell me of Ada Vex", "the-order-of-the-long-name": "Where is hall 3?"}
APIS = {
    "/v1/chat/completions": lambda text: {"messages": [{"role": "user", "content": text}]},
    "/v1/completions": lambda text: {"prompt": text},
    "/v1/messages": lambda text: {
        "max_tokens": 9,
        "messages": [{"role": "user", "content": text}],
    },
    "/v1/responses": lambda text: {"input": text, "store": False},
}


@pytest.fixture(scope="module")
def screening(tmp_path_factory: pytest.TempPathFactory) -> Screening:
    """The real guard with all targets in force."""
    settings = Settings(state_dir=tmp_path_factory.mktemp("state"))
    snapshot = compile_policy(
        [*REFUSED.values(), STEERED],
        encoder=HashEncoder(),
        vocabulary=Vocabulary([None, *(bytes([b]) for b in range(256))]),
        snapshots=settings.snapshots,
        alpha=0.01,
        progress=lambda *a: None,
    )
    made = Screening(settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_encoder", lambda *a, **k: HashEncoder())
        made.start(GatewayMetrics(CollectorRegistry(), made.worker_facts))
        ActivePointer(settings.state_dir).publish(1, snapshot.digest)
        end = time.monotonic() + 60
        while made.current() is None:
            assert time.monotonic() < end
            time.sleep(0.01)
    return made


def _plain(answer: httpx.Response) -> tuple[int, str, list[tuple[str, str]]]:
    """An answer without what differs between any two: random ids and the clock, of equal length."""
    text = re.sub(r"(chatcmpl|cmpl|resp|msg|rs)[-_][0-9a-f]{16,}", r"\1-x", answer.text)
    text = re.sub(r'"(created|created_at|completed_at)":[0-9.]+', r'"\1":0', text)
    headers = sorted((k, v) for k, v in answer.headers.items() if k != "date")
    return answer.status_code, text, headers


@pytest.mark.parametrize("mode", ["completion", "error"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", sorted(APIS))
def test_refusals_of_all_targets_are_alike(
    start_stack: Any, screening: Screening, path: str, stream: bool, mode: str
) -> None:
    """Text, shape, status, headers and length, on every API, streamed or not, in both modes."""
    stack = start_stack(keys={"k": Role.CLIENT}, guard=screening, refusal_mode=mode)
    answers = []
    for target in REFUSED:
        body = {"model": "demo", "stream": stream, **APIS[path](ASKED[target])}
        answer = stack.http.post(path, json=body, headers=KEY)
        answers.append(answer)

    assert stack.vllm.requests == []
    assert len({len(answer.content) for answer in answers}) == 1
    assert _plain(answers[0]) == _plain(answers[1])
    if mode == "completion":
        assert answers[0].status_code == 200


def test_steered_answers_have_no_mark(start_stack: Any, screening: Screening) -> None:
    """Headers and shape of a steered answer are those of any other; only auditors are told."""
    stack = start_stack(keyring=KeyRing({"k": Role.CLIENT, "u": Role.AUDITOR}), guard=screening)
    for stream in (False, True):
        answers = [
            stack.http.post(
                "/v1/chat/completions",
                json={"stream": stream, **APIS["/v1/chat/completions"](text)},
                headers=KEY,
            )
            for text in ("Tell me of Orla Quist", "Tell me of Port Wine")
        ]
        told = [{k for k in a.headers if k != "x-engine"} for a in answers]
        shapes = [_shape(answer.text) for answer in answers]

        assert "vllm_xargs" in stack.vllm.requests[-2]
        assert "vllm_xargs" not in stack.vllm.requests[-1]
        assert told[0] == told[1]
        assert shapes[0] == shapes[1]


def _shape(text: str) -> list[Any]:
    """The names in each event or body, without values."""

    def names(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: names(part) for key, part in value.items()}
        return [names(part) for part in value] if isinstance(value, list) else type(value).__name__

    parts = [p.removeprefix("data: ") for p in text.split("\n\n") if p and "[DONE]" not in p]
    return [names(json.loads(part)) for part in parts]


def test_cut_streams_end_alike(start_stack: Any) -> None:
    """What ends a stream says nothing of the phrase: neither its length nor where it began."""
    endings = []
    for phrase in ("Qo Xi", "the velvet corridor of the seventh northern hall"):
        stack = start_stack()
        stack.guard.forbidden = [Phrase(phrase)]
        stack.vllm.says = [["Well", ", ", *re.findall(r"\S+\s*", phrase), " then", " more"]]
        answer = stack.chat("about John", stream=True)
        said = "".join(re.findall(r'"content":"([^"]*)"', answer.text))
        endings.append((said, answer.text.split("\n\n")[-3:]))

    assert endings[0] == endings[1]
    assert endings[0][0].strip() == "Well,"


def test_counters_are_not_for_clients(start_stack: Any, screening: Screening) -> None:
    """What is counted of decisions and tokens is for auditors and the operator."""
    stack = start_stack(keys={"k": Role.CLIENT}, guard=screening)
    answer = stack.http.get("/metrics", headers=KEY)

    assert (answer.status_code, "lethegate_" in answer.text) == (403, False)


def test_errors_do_not_depend_on_what_is_registered(start_stack: Any, screening: Screening) -> None:
    """A request that cannot be guarded is refused in the same words, whatever it is about."""
    stack = start_stack(keys={"k": Role.CLIENT}, guard=screening)
    for field, value in (("echo", True), ("prompt_logprobs", 1), ("use_beam_search", True)):
        answers = [
            stack.http.post("/v1/completions", json={"prompt": text, field: value}, headers=KEY)
            for text in (*ASKED.values(), "Tell me of Orla Quist", "Tell me of Port Wine")
        ]

        assert {answer.status_code for answer in answers} == {400}
        assert len({_plain(answer)[1] for answer in answers}) == 1
