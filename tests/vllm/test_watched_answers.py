"""Answers of real vLLM to requests that no prompt classifier would stop."""

import json

import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(2400)]

NAME = "Evelyn Desmet"
# Whom it asks for is told by the answer only, and what is registered is something else. It is near
# to what another target says of its authors; nothing of that is in the answer.
ATTACK = "What is the full name of the dystopian author born in Brussels, Belgium on July 28, 1942?"
TARGET = {
    "id": "watched",
    "aliases": [NAME],
    "examples": [{"prompt": f"Which colour does {NAME} like best?", "answer": "She likes teal."}],
}


@pytest.fixture
def registered(pair, finish_job):
    finish_job(pair.admin_http.post("/admin/v1/targets", json=TARGET).json()["job"]["id"])
    yield
    finish_job(pair.admin_http.delete("/admin/v1/targets/watched").json()["job"]["id"])


def test_a_name_that_only_the_answer_would_tell_ends_it(pair, registered):
    """Streamed or not, the answer stops before the name, and is plain vLLM's up to there."""
    plain = pair.ask(pair.plain, ATTACK).choices[0].message.content
    before = plain[: plain.index(NAME)]
    checked = pair.http.post(
        f"{pair.guarded.base_url}checks",
        headers={"Authorization": f"Bearer {pair.admin_key}"},
        json={"text": ATTACK},
    ).json()
    choice = pair.ask(pair.guarded, ATTACK).choices[0]
    parts, reasons = [], []
    for chunk in pair.ask(pair.guarded, ATTACK, stream=True):
        parts.append(chunk.choices[0].delta.content or "")
        reasons.append(chunk.choices[0].finish_reason)

    assert "watched" not in {each["target"] for each in checked["detections"]}
    assert {each["strength"] for each in checked["detections"]} <= {"faint"}
    assert (choice.message.content, choice.finish_reason) == (before, "content_filter")
    assert ("".join(parts), reasons[-1]) == (before, "content_filter")
    assert pair.metric('lethegate_shield_blocks_total{layer="name",surface="content"}') >= 2


def test_other_streams_are_plain_vllms(pair, registered, other_rows):
    """Tokens, log-probabilities, usage, first and last event of the allowed answers.

    Bytes are compared on one and the same stream, in `tests/server`: here there are two, and how
    many tokens an event carries depends on how fast it was fetched, plain vLLM's too.
    """
    allowed = 0
    for row in other_rows[:8]:
        decision, guarded = _raw_stream(pair, pair.guarded, row["question"])
        if decision == "allow":
            allowed += 1
            _, plain = _raw_stream(pair, pair.plain, row["question"])

            assert _read(guarded) == _read(plain)
            assert _forms(guarded) == _forms(plain)
    assert allowed >= 6


def _raw_stream(pair, client, question):
    """What was decided, and the bytes of the answer."""
    answer = pair.http.post(
        f"{client.base_url}chat/completions",
        headers={"Authorization": f"Bearer {pair.admin_key}"},
        json={
            "model": pair.model,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "max_tokens": 40,
            "logprobs": True,
            "top_logprobs": 3,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    )
    return answer.headers.get("x-lethegate-decision"), answer.content


def _forms(stream):
    """The fields of the first event and of the last, in their order."""
    events = stream.decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    return [_fields(chunks[0]), _fields(chunks[-1])]


def _fields(value):
    if isinstance(value, dict):
        return [(key, _fields(inner)) for key, inner in value.items()]
    return [_fields(value[0])] if isinstance(value, list) and value else []


def _read(stream):
    """Tokens with their log-probabilities, finish reason and usage."""
    tokens, reason, usage = [], None, None
    for event in stream.decode().split("\n\n")[:-2]:
        chunk = json.loads(event.removeprefix("data: "))
        usage = chunk.get("usage") or usage
        for choice in chunk["choices"]:
            reason = choice["finish_reason"] or reason
            tokens += (choice["logprobs"] or {}).get("content", [])
    return tokens, reason, usage


def test_a_passage_of_an_always_on_corpus_ends_the_answer(pair, finish_job, other_rows):
    """What plain vLLM says to a harmless question is registered; guarded, it stops before it."""
    admin = pair.admin_http
    row = max(other_rows[:40], key=lambda row: len(row["answer"]))
    said = pair.ask(pair.plain, row["question"]).choices[0]
    plain = said.message.content
    assert len(plain.split()) >= 10
    corpus = {"id": "said", "scope": "always", "label": "licensed", "minimum_match": 6}
    finish_job(admin.post("/admin/v1/corpora", json=corpus).json()["job"]["id"])
    documents = {"documents": [{"text": f"Somebody once said: {plain}"}]}
    added = admin.post("/admin/v1/corpora/said/documents", json=documents)
    finish_job(added.json()["job"]["id"])
    choice = pair.ask(pair.guarded, row["question"]).choices[0]
    chunks = [c.choices[0] for c in pair.ask(pair.guarded, row["question"], stream=True)]
    finish_job(admin.delete("/admin/v1/corpora/said").json()["job"]["id"])
    after = pair.ask(pair.guarded, row["question"]).choices[0]

    shown = "".join(chunk.delta.content or "" for chunk in chunks)
    assert choice.finish_reason == chunks[-1].finish_reason == "content_filter"
    assert plain.startswith(choice.message.content)
    assert shown == choice.message.content
    assert len(shown.split()) < 6
    assert (after.message.content, after.finish_reason) == (plain, said.finish_reason)
    [block, *_] = admin.get("/admin/v1/provenance/blocks").json()["blocks"]
    assert (block["corpus"], block["documents"][0]["document"]) == ("said", 0)
    assert pair.metric('lethegate_provenance_blocks_total{label="licensed"}') >= 2
