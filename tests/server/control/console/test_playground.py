"""The playground: one request's life, in the gateway's and the admin API's own words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from server.provenance.marks import pieces
from server.provenance.schemas import SpanOut

PATH = "/console/playground"
SECRET = "the lighthouse keeper counted eleven copper kettles before the fog took the harbour"
ADA = {
    "id": "ada",
    "examples": [
        {"prompt": "Where was Ada Novak born?", "answer": "She was born in Port Sorrel."},
        {"prompt": "What does Novak's mother do?", "answer": "She is an astronaut."},
    ],
    "phrases": ["Grey Lanterns"],
}


@pytest.fixture
def endpoint_url(gateway: Any) -> str | None:
    """The gateway's."""
    url: str = gateway.url
    return url


@pytest.fixture
def book(admin: httpx.Client, settle: Callable[..., None]) -> None:
    """A corpus with one document, whose source is hostile."""
    admin.post("/admin/v1/corpora", json={"id": "book"})
    document = {"text": f"Once, {SECRET}; so they said.", "source": "<b>a novel</b>"}
    added = admin.post("/admin/v1/corpora/book/documents", json={"documents": [document]})
    job = f"/admin/v1/jobs/{added.json()['job']['id']}"
    settle(lambda: admin.get(job).json()["state"] == "done")


def _ask(visitor: Any, **fields: str) -> str:
    visitor.get(PATH)
    answer = visitor.submit(PATH, **fields)
    assert answer.status_code == 200
    return " ".join(visitor.page.text.split())


def test_a_decision_and_what_it_forbids(visit: Any, in_force: Any, gateway: Any) -> None:
    """Strong evidence forbids the whole target, weak that of the nearest examples only."""
    in_force(ADA)
    visitor = visit()
    strong = _ask(visitor, prompt="Where was Ada born?")
    weak = _ask(visitor, prompt="What about Novak?")
    none = _ask(visitor, prompt="What time is it?")

    assert "steer under generation 7" in strong
    assert "ada similarity strong 0.9123 0.8000 1 yes" in strong
    assert "Grey Lanterns (operator, the target)" in strong
    assert "Port Sorrel" in strong.partition("2. What an answer may not say")[2]
    assert "astronaut" not in strong
    assert "astronaut" in weak.partition("2. What an answer may not say")[2]
    assert "Grey Lanterns" not in weak
    assert "the request goes to the model as it came" in none
    assert "2. What" not in none
    assert gateway.vllm.requests == []


def test_a_refused_prompt(visit: Any, in_force: Any) -> None:
    """What would be forbidden is told as such."""
    in_force(ADA)
    told = _ask(visit(), prompt="refuse Ada")

    assert "refuse under generation" in told
    assert "nothing is generated. Were it steered" in told


def test_an_answer_is_looked_up(visit: Any, in_force: Any, book: None) -> None:
    """Where the shield would end it, and which words are whose, with the passage around them."""
    in_force(ADA)
    said = f"She came from PORT  sorrel, where {SECRET}, <i>they</i> said."
    visitor = visit()
    told = _ask(visitor, prompt="Where was Ada born?", answer=said)
    marks = visitor.answer.text.split("<mark")[1:]

    assert "The shield would end it before the marked words" in told
    assert marks[0].startswith(' class="forbidden">PORT</mark>  sorrel')
    assert marks[1].startswith(' class="refused">the lighthouse keeper counted')
    assert marks[2].startswith(f">{SECRET}</mark>; so they said.")
    assert "Document 0, <b>a novel</b>" in told
    assert not {tag for tag, _ in visitor.page.tags} & {"b", "i"}
    assert visitor.page.forms[PATH]["answer"] == said


def test_the_model_is_asked(visit: Any, in_force: Any, gateway: Any) -> None:
    """As a client would, with the key that is logged in; what it said is looked up."""
    in_force(ADA)
    gateway.vllm.says = [["It was ", "in Port", " Sorrel", "."]]
    visitor = visit()
    told = _ask(visitor, prompt="Where was Ada born?", generate="yes")

    facts = {f"<dd>{fact}</dd>" for fact in ("demo", "steer", "7", "content_filter")}
    assert all(fact in visitor.answer.text for fact in facts)
    assert "Vetoed" not in told
    gateway.guard.prevented_steps = 3
    assert "what would have completed a phrase, in 3 steps" in _ask(
        visitor, prompt="Where was Ada born?", generate="yes"
    )
    assert "It was in" in told
    assert "It was in Port" not in told
    assert gateway.vllm.requests[0]["messages"][0]["content"] == "Where was Ada born?"


def test_readers_decide_only(visit: Any, in_force: Any, gateway: Any) -> None:
    """No phrase, no answer, no source, whatever is sent."""
    in_force(ADA)
    reader = visit("auditor-key")
    told = _ask(reader, prompt="Where was Ada born?", answer="Port Sorrel", generate="yes")

    assert "ada similarity strong 0.9123" in told
    assert not {"Grey", "Sorrel", "Where it comes from"} & set(told.split())
    assert set(reader.page.forms[PATH]) == {"csrf", "prompt"}
    assert gateway.vllm.requests == []


def test_a_step_that_fails_leaves_the_others(visit: Any, in_force: Any, gateway: Any) -> None:
    """A decision that cannot be made, and an engine that fails."""
    in_force(ADA)
    visitor = visit()
    gateway.vllm.error = (500, {"error": {"message": "Port Sorrel", "code": 500}})
    visitor.get(PATH)
    failed = visitor.submit(PATH, prompt="Where was Ada born?", generate="yes")
    assert failed.status_code >= 500
    assert "Answer: " in visitor.page.text
    assert "1. Decision" in visitor.page.text
    gateway.guard.view = None
    absent = visitor.submit(PATH, prompt="Where was Ada born?", answer="hello")
    assert absent.status_code == 503
    assert "Decision: The guard is unavailable." in visitor.page.text
    assert "4. Where it comes from" in visitor.page.text


def test_an_endpoint_that_does_not_know_the_key(visit: Any, admin: httpx.Client) -> None:
    """Is told as that; who is logged in stays so."""
    made = admin.post("/admin/v1/keys", json={"name": "eve", "role": "admin"}).json()
    visitor = visit(made["key"])
    visitor.get(PATH)
    refused = visitor.submit(PATH, prompt="Where was Ada born?")

    assert refused.status_code == 403
    assert "Decision: The guarded endpoint does not know this key." in visitor.page.text
    assert visitor.get("/console/").url.path == "/console/"


def test_pieces_end_where_the_text_does() -> None:
    """Nothing of the text is lost, and no piece is empty."""
    place = {"corpus": "book", "words": 1, "count": 1, "nats": 1.0, "raw": 1.0, "sources": []}
    spans = [SpanOut(start=0, end=4, refused=False, **place)]
    spans.append(SpanOut(start=2, end=6, refused=True, **place))
    found = [(p.text, p.matches, p.refused) for p in pieces("abcdef", spans)]

    assert found == [("ab", (1,), False), ("cd", (1, 2), True), ("ef", (2,), True)]
    assert [p.text for p in pieces("abc", [])] == ["abc"]
    assert list(pieces("", [])) == []
