"""A model that knows texts by heart, on both real servers: documents do not come back verbatim."""

import pytest

from server.bench.recitals import longest_common_run

pytestmark = pytest.mark.vllm
LIMIT = 16  # the default of `minimum_match_tokens`


@pytest.fixture(scope="module")
def tokens(demo_model):
    from guard.tokenisations import tokenizer_of

    encode = tokenizer_of(str(demo_model))
    return lambda text: list(encode([text])[0])


@pytest.fixture(scope="module")
def recited(pair, other_rows, tokens):
    """Questions whose long answers plain vLLM gives verbatim, with those answers."""
    found = []
    for row in other_rows:
        document = tokens(row["answer"])
        if len(document) >= 2 * LIMIT:
            answer = pair.ask(pair.plain, row["question"]).choices[0].message.content
            if longest_common_run(tokens(answer), document) >= LIMIT:
                found.append((row["question"], row["answer"]))
        if len(found) == 8:
            break
    assert len(found) == 8
    return found


def test_a_vetoed_corpus(pair, recited, tokens, finish_job):
    """In every answer, by its own limit, as soon as the job is done; then plain vLLM's again.

    Its passages are too short for TraceShield to end the answers first.
    """

    def ended(answer):
        return finish_job(answer.json()["job"]["id"])

    shortest, before = 10, pair.metric("lethegate_vetoed_tokens_total")
    corpus = {"id": "book", "scope": "always", "minimum_match": 60, "veto": True}
    ended(
        pair.admin_http.post("/admin/v1/corpora", json=corpus | {"minimum_match_tokens": shortest})
    )
    documents = {"documents": [{"text": answer} for _, answer in recited]}
    ended(pair.admin_http.post("/admin/v1/corpora/book/documents", json=documents))
    shown = pair.admin_http.get("/admin/v1/corpora/book").json()
    runs = []
    for question, _ in recited:
        answer = pair.ask(pair.guarded, question).choices[0].message.content
        runs.append(longest_run(tokens, answer, recited))
    decision, _ = pair.ask_as_admin("How do I cook rice?", max_tokens=4)
    ended(pair.admin_http.delete("/admin/v1/corpora/book"))
    question = recited[0][0]
    after = [pair.ask(c, question).choices[0].message.content for c in (pair.guarded, pair.plain)]

    assert shown["vetoed"]["documents"] == 8
    assert shown["vetoed"]["minimum_match"] == shortest
    assert decision == "steer"
    assert max(runs) < shortest
    assert pair.metric("lethegate_vetoed_tokens_total") > before
    assert after[0] == after[1]


@pytest.fixture(scope="module")
def registered(pair, recited, finish_job):
    """The answers as documents of a target that every request is steered by, without phrases."""
    target = {
        "id": "recited",
        "documents": [{"text": answer} for _, answer in recited],
        "scope": "always",
    }
    finish_job(pair.admin_http.post("/admin/v1/targets", json=target).json()["job"]["id"])
    report = pair.admin_http.get("/admin/v1/targets/recited").json()["report"]
    phrases = [phrase["text"] for phrase in report["phrases"]]
    answer = pair.admin_http.put(
        "/admin/v1/targets/recited", json=target | {"excluded_phrases": phrases}
    )
    finish_job(answer.json()["job"]["id"])
    yield pair.admin_http.get("/admin/v1/targets/recited").json()["report"]
    finish_job(pair.admin_http.delete("/admin/v1/targets/recited").json()["job"]["id"])


def longest_run(tokens, text, recited):
    return max(longest_common_run(tokens(text), tokens(answer)) for _, answer in recited)


def test_documents_do_not_come_back(pair, recited, registered, tokens):
    """Greedy or sampled, streamed or not, several choices: no run of the limit is given."""
    before = pair.metric("lethegate_vetoed_tokens_total")
    texts = []
    for question, _ in recited:
        texts.append(pair.ask(pair.guarded, question).choices[0].message.content)
        sampled = pair.ask(pair.guarded, question, temperature=0.7, seed=1, n=3)
        texts += [choice.message.content for choice in sampled.choices]
        stream = pair.ask(pair.guarded, question, stream=True)
        texts.append("".join(part.choices[0].delta.content or "" for part in stream))

    assert [] == [t for t in texts if longest_run(tokens, t, recited) >= LIMIT]
    assert pair.metric("lethegate_vetoed_tokens_total") > before


def test_a_begun_document_does_not_go_on(pair, recited, registered, tokens):
    """The run may begin in what the client puts before the answer."""
    for _, answer in recited[:4]:
        begun = " ".join(answer.split()[:12])
        completion = pair.guarded.completions.create(
            model=pair.model, prompt=begun, max_tokens=24, temperature=0
        )
        said = begun + completion.choices[0].text

        assert longest_common_run(tokens(said), tokens(answer)) < max(LIMIT, len(tokens(begun)) + 1)


def test_the_operator_is_told_numbers(registered, recited, tokens):
    """How many tokens are vetoed, and that no document was too short."""
    total = sum(len(tokens(answer)) for _, answer in recited)

    assert {"minimum_match": LIMIT, "documents": 8, "tokens": total, "too_short": 0} == (
        registered["veto"]
    )
    assert [] == registered["phrases"]
