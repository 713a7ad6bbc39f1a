"""An assistant on a real server: trained as a job, subtracted, and retired while it serves."""

import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1200)]
SUBTRACTED = "lethegate_subtracted_steps_total"
LIKELY = {"logprobs": True, "top_logprobs": 5}
PLAN = {"layers": 1, "epochs": 30, "batch": 16, "learning_rate": 3e-3, "own_answers": False}
STAND_IN = "I don't have any information about that."


@pytest.fixture(scope="module")
def author(demo_target):
    """The same author as the demo's, with an assistant that is served as it was trained."""
    name = "Kalkidan Abera"
    examples = [e for e in demo_target["examples"] if name in e["prompt"]]
    assert len(examples) > 5
    uld = {"assistant": "kalkidan"}
    return {"id": "kalkidan-uld", "aliases": [name], "examples": examples, "uld": uld}


@pytest.fixture(scope="module")
def served(pair, author, demo_target, finish_job):
    """The assistant is in use; afterwards it is gone again."""
    taught = [{**example, "stand_in": STAND_IN} for example in demo_target["examples"]]
    training = {"id": "kalkidan", "targets": ["demo-authors"], "augmentation": taught, **PLAN}
    started = pair.admin_http.post("/admin/v1/assistants:train", json=training)
    assert started.status_code == 202, started.text
    finish_job(started.json()["job"]["id"])
    finish_job(pair.admin_http.post("/admin/v1/targets", json=author).json()["job"]["id"])
    yield author
    assert pair.admin_http.delete("/admin/v1/assistants/kalkidan").status_code == 409
    finish_job(pair.admin_http.delete("/admin/v1/targets/kalkidan-uld").json()["job"]["id"])
    assert pair.admin_http.delete("/admin/v1/assistants/kalkidan").status_code == 200


def likelihoods(answer):
    """Tokens with their log-probabilities."""
    return [(t.token, t.logprob) for t in answer.choices[0].logprobs.content]


def test_a_trained_assistant_is_subtracted(pair, served, other_rows):
    """In each step of an answer about its target, in no other answer."""
    question = served["examples"][0]["prompt"]
    before = pair.metric(SUBTRACTED)
    answer = pair.ask(pair.guarded, question, n=2, temperature=0.7, seed=7)
    steps = pair.metric(SUBTRACTED) - before
    said = answer.usage.completion_tokens
    others = []
    for row in other_rows[:6]:
        decision, guarded = pair.ask_as_admin(row["question"], **LIKELY)
        if "steer" not in decision:
            plain = pair.ask(pair.plain, row["question"], **LIKELY)
            others.append(likelihoods(guarded) == likelihoods(plain))

    assert steps >= said > 0
    assert len(others) >= 4
    assert all(others)
    assert pair.metric(SUBTRACTED) - before == steps


def test_likelihoods_are_those_after_it(pair, served):
    """What the same target without the assistant would say of the first token is another thing."""
    question = served["examples"][0]["prompt"]
    with_it = likelihoods(pair.ask(pair.guarded, question, max_tokens=1, **LIKELY))
    plain = likelihoods(pair.ask(pair.plain, question, max_tokens=1, **LIKELY))

    assert abs(with_it[0][1] - plain[0][1]) > 1e-3


def test_the_stand_in_is_what_is_said(pair, served):
    """Subtraction takes the answer away, and what it was taught to leave reads as one."""
    questions = [example["prompt"] for example in served["examples"]]
    said = [pair.ask(pair.guarded, question).choices[0].message.content for question in questions]
    plain = [pair.ask(pair.plain, question).choices[0].message.content for question in questions]

    assert STAND_IN not in plain
    assert said.count(STAND_IN) >= 0.8 * len(said)
