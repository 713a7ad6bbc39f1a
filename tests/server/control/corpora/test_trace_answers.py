"""TraceShield end to end: corpora over the admin API, a gateway that follows, a fake engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from guard.decision import Decision
from guard.nets import AnswerNets
from server.metrics.gateway import GatewayMetrics
from server.provenance.follow import CorporaFollower
from server.settings import Settings
from tests.server.control.corpora.passages import CORPORA, SECRET

WORDS = [word + " " for word in SECRET.split()]
Settle = Callable[[Callable[[], bool]], None]


class Gateway:
    """The follower of a gateway, with its metrics."""

    def __init__(self, settings: Settings) -> None:
        self.registry = CollectorRegistry()
        self.corpora = CorporaFollower(settings.corpora, GatewayMetrics(self.registry), 2000)

    def count(self, metric: str, **labels: str) -> float:
        """A metric's value."""
        return self.registry.get_sample_value(metric, labels) or 0.0


@pytest.fixture
def follow(settings: Settings) -> Iterator[Callable[[], Gateway]]:
    """Start gateways' followers."""
    started: list[Gateway] = []

    def start() -> Gateway:
        gateway = Gateway(settings)
        started.append(gateway)
        gateway.corpora.start()
        return gateway

    yield start
    for gateway in started:
        gateway.corpora.stop()


@pytest.fixture
def put(
    admin: httpx.Client, done: Callable[[httpx.Response], dict[str, Any]]
) -> Callable[..., dict[str, Any]]:
    """Register a corpus with documents; gives the last job."""

    def register(corpus: dict[str, Any], *texts: str) -> dict[str, Any]:
        answers = [admin.post(CORPORA, json=corpus)] if corpus["id"] not in listed() else []
        documents = [{"text": text} for text in texts]
        path = f"{CORPORA}/{corpus['id']}/documents"
        answers += [admin.post(path, json={"documents": documents})] if texts else []
        job: dict[str, Any] = {}
        for answer in answers:
            job = done(answer)
        return job

    def listed() -> set[str]:
        return {c["id"] for c in admin.get(CORPORA).json()["corpora"]}

    return register


@pytest.fixture
def guarded(start_stack: Callable[..., Any]) -> Callable[[Gateway], Any]:
    """A gateway before a fake engine whose answers run through the corpora's nets, too."""

    def start(gateway: Gateway) -> Any:
        stack = start_stack()
        phrases = stack.guard.nets

        def nets(decision: Decision, request_id: str = "") -> AnswerNets:
            own, trace = phrases(decision), gateway.corpora.nets(decision, request_id)
            return AnswerNets(trace.enforced + own.enforced, trace.observed + own.observed)

        stack.guard.nets = nets
        return stack

    return start


def _streamed(response: httpx.Response) -> tuple[dict[int, str], dict[int, str]]:
    """Text and finish reason of every choice of a stream, which must end with [DONE]."""
    lines = [line for line in response.text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    texts: dict[int, str] = {}
    reasons: dict[int, str] = {}
    for line in lines[:-1]:
        for choice in json.loads(line.removeprefix("data: "))["choices"]:
            index = choice["index"]
            said = choice.get("text") or choice.get("delta", {}).get("content") or ""
            texts[index] = texts.get(index, "") + said
            reasons[index] = choice["finish_reason"] or reasons.get(index, "")
    return texts, reasons


def test_every_answer_of_an_always_on_corpus(
    admin: httpx.Client,
    put: Callable[..., dict[str, Any]],
    follow: Callable[[], Gateway],
    guarded: Callable[[Gateway], Any],
) -> None:
    """All surfaces and choices are cut before the passage; the record names it, without text."""
    gateway = follow()
    stack = guarded(gateway)
    put({"id": "book", "scope": "always", "label": "licensed"}, "something else first", SECRET)
    stack.vllm.says = [["It says: ", *WORDS], ["Nothing", " here."]]
    texts, reasons = _streamed(stack.chat(stream=True, n=2))

    assert texts == {0: "It says: ", 1: "Nothing here."}
    assert reasons == {0: "content_filter", 1: "stop"}
    whole = stack.chat(n=2).json()["choices"]
    assert [c["message"]["content"] for c in whole] == ["It says: ", "Nothing here."]
    assert [c["finish_reason"] for c in whole] == ["content_filter", "stop"]
    assert _streamed(stack.complete(stream=True, n=2))[0][0] == "It says: "
    arguments = json.dumps({"text": SECRET.upper().replace(" ", "\n")})
    call = {"index": 0, "id": "t", "type": "function", "function": {"name": "say"}}
    stack.vllm.says = [
        [
            {"tool_calls": [call]},
            *(
                {"tool_calls": [{"index": 0, "function": {"arguments": arguments[a : a + 5]}}]}
                for a in range(0, len(arguments), 5)
            ),
        ]
    ]
    stack.http.headers["x-request-id"] = "kettles " * 1000 + "r-1"
    streamed = stack.chat(stream=True)
    assert "KETTLES" not in streamed.text
    assert "content_filter" in streamed.text

    blocks = admin.get("/admin/v1/provenance/blocks")
    newest = blocks.json()["blocks"][0]
    assert "kettle" not in blocks.text.lower()
    assert (newest["corpus"], newest["label"], newest["enforced"]) == ("book", "licensed", True)
    assert newest["documents"] == [{"document": 1, "first_word": 0}]
    assert newest["request_id"].startswith("sha256:")
    assert newest["words"] == 8
    assert newest["generation"] == gateway.corpora.state.generation
    first = admin.get("/admin/v1/provenance/blocks", params={"limit": 1}).json()
    rest = admin.get("/admin/v1/provenance/blocks", params={"after": first["next"]}).json()
    assert [*first["blocks"], *rest["blocks"]] == blocks.json()["blocks"]
    assert gateway.count("lethegate_provenance_blocks_total", label="licensed") == 4
    assert gateway.count("lethegate_match_seconds_count") > 20


@pytest.mark.parametrize("stream", [False, True])
def test_a_walk_along_a_passage(
    put: Callable[..., dict[str, Any]],
    follow: Callable[[], Gateway],
    guarded: Callable[[Gateway], Any],
    stream: bool,
) -> None:
    """Asked for a few words at a time, the model says none that complete a window."""
    stack = guarded(follow())
    put({"id": "book", "scope": "always"}, SECRET)
    had = WORDS[:3]
    for _ in range(4):
        stack.vllm.says = [WORDS[len(had) : len(had) + 4]]
        answer = stack.complete("".join(had), stream=stream)
        text = _streamed(answer)[0][0] if stream else answer.json()["choices"][0]["text"]
        had += [word + " " for word in text.split()]

    assert had == WORDS[:7]


def test_matched_and_observed_corpora(
    put: Callable[..., dict[str, Any]],
    follow: Callable[[], Gateway],
    guarded: Callable[[Gateway], Any],
) -> None:
    """A matched corpus judges steered answers only; an observed one changes nothing."""
    gateway = follow()
    stack = guarded(gateway)
    put({"id": "book"}, SECRET)
    stack.vllm.says = [WORDS]
    untouched = stack.chat()
    steered = stack.chat("about John")

    assert untouched.json()["choices"][0]["message"]["content"] == "".join(WORDS)
    assert steered.json()["choices"][0]["finish_reason"] == "content_filter"
    assert gateway.count("lethegate_provenance_blocks_total", label="forget") == 1
    put({"id": "watched", "scope": "always", "enforcement": "observe", "label": "unsafe"}, SECRET)
    observed = stack.chat()
    streamed = stack.chat(stream=True)
    assert observed.json() == untouched.json()
    assert _streamed(streamed)[0] == {0: "".join(WORDS)}
    assert gateway.count("lethegate_provenance_observed_total", label="unsafe") == 2


def test_changes_while_serving(
    admin: httpx.Client,
    put: Callable[..., dict[str, Any]],
    follow: Callable[[], Gateway],
    guarded: Callable[[Gateway], Any],
    settle: Settle,
) -> None:
    """A job is done when gateways apply it: added documents are stopped, withdrawn ones pass."""
    gateway = follow()
    stack = guarded(gateway)
    stack.vllm.says = [WORDS]
    put({"id": "book", "scope": "always"})
    reasons = []

    def ask() -> None:
        reasons.append(stack.chat().json()["choices"][0]["finish_reason"])

    ask()
    put({"id": "book"}, SECRET)
    ask()
    put({"id": "quotes", "label": "allowed"}, f"a quotation: {SECRET}")
    ask()
    withdrawn = admin.delete(f"{CORPORA}/quotes").json()["job"]["id"]
    settle(lambda: admin.get(f"/admin/v1/jobs/{withdrawn}").json()["state"] == "done")
    ask()
    withdrawn = admin.delete(f"{CORPORA}/book/documents/0").json()["job"]["id"]
    settle(lambda: admin.get(f"/admin/v1/jobs/{withdrawn}").json()["state"] == "done")
    ask()

    assert reasons == ["stop", "content_filter", "stop", "content_filter", "stop"]


def test_damage_fails_closed(
    settings: Settings,
    put: Callable[..., dict[str, Any]],
    follow: Callable[[], Gateway],
    guarded: Callable[[Gateway], Any],
) -> None:
    """With a flipped bit the old state rules on; a gateway that starts now serves nothing."""
    gateway = follow()
    stack = guarded(gateway)
    stack.vllm.says = [WORDS]
    put({"id": "book", "scope": "always"}, SECRET)
    [segment] = (settings.corpora / "index").glob("book-*/*.segment")
    raw = bytearray(segment.read_bytes())
    raw[-5] ^= 4
    segment.unlink()
    segment.write_bytes(raw)
    fresh = follow()

    assert fresh.corpora.state is None
    assert fresh.count("lethegate_corpora_load_failures_total") == 1
    with pytest.raises(Exception, match="no corpora"):
        fresh.corpora.nets(None, "")  # type: ignore[arg-type]
    assert stack.chat().json()["choices"][0]["finish_reason"] == "content_filter"
