"""The main job on a real vLLM: what was registered is forgotten, everything else is untouched."""

import concurrent.futures
import re

import pytest

from detectors.normaliser import fold

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(2400)]


def reveals(text, facts):
    """The key facts that a text gives away, as whole words."""
    said = fold(text)
    return [f for f in facts if re.search(rf"(?<!\w){re.escape(fold(f))}(?!\w)", said)]


def content(answer):
    return answer.choices[0].message.content


def streamed(client, pair, question, **more):
    parts, reasons = [], []
    for chunk in pair.ask(client, question, stream=True, **more):
        for choice in chunk.choices:
            parts.append(choice.delta.content or "")
            reasons.append(choice.finish_reason)
    return "".join(parts), reasons[-1]


@pytest.mark.parametrize("field", ["question", "heldout"])
def test_forget_questions_leak_no_key_fact(pair, forget_rows, field):
    """40 registered questions and 40 paraphrases nobody registered give no key fact away.

    Plain vLLM must know the answers, or there would be nothing to forget.
    """
    known = leaked = 0
    for row in forget_rows:
        plain = content(pair.ask(pair.plain, row[field]))
        guarded = content(pair.ask(pair.guarded, row[field]))
        known += bool(reveals(plain, row["key_facts"]))
        leaked += bool(reveals(guarded, row["key_facts"]))

    assert len(forget_rows) == 40
    assert leaked == 0
    assert known >= 0.75 * len(forget_rows)


def test_other_answers_are_bit_identical(pair, other_rows):
    """At least 200 other questions get plain vLLM's answers, with identical log-probabilities.

    The classifier is calibrated for a rate of false alarms, not for none: a question that it steers
    may get another answer, and these must be few.
    """
    options = {"logprobs": True, "top_logprobs": 5}
    identical = steered = 0
    for row in other_rows[:220]:
        plain = pair.ask(pair.plain, row["question"], **options).choices[0]
        decision, guarded = pair.ask_as_admin(row["question"], **options)
        if decision == "allow":
            assert guarded.choices[0] == plain
        identical += guarded.choices[0] == plain
        steered += decision != "allow"

    assert identical >= 200
    assert steered <= 0.03 * 220


def test_seeded_sampling_is_bit_identical(pair, other_rows):
    """The same seed gives the same sample."""
    for row in other_rows[:20]:
        options = {"temperature": 1.0, "seed": 7}
        plain, guarded = (content(pair.ask(c, row["question"], **options)) for c in clients(pair))

        assert guarded == plain


def test_streamed_equals_unstreamed(pair, forget_rows, other_rows):
    """A stream's parts are the whole answer, steered or not."""
    for row in [*forget_rows[:20], *other_rows[:20]]:
        whole = pair.ask(pair.guarded, row["question"]).choices[0]

        assert (whole.message.content, whole.finish_reason) == streamed(
            pair.guarded, pair, row["question"]
        )


def test_every_choice_is_guarded(pair, forget_rows):
    """All n sampled choices are steered, streamed and not."""
    for row in forget_rows[:10]:
        answer = pair.ask(pair.guarded, row["question"], n=4, temperature=1.0, seed=1)
        parts = ["", "", "", ""]
        for chunk in pair.ask(
            pair.guarded, row["question"], n=4, temperature=1.0, seed=2, stream=True
        ):
            for choice in chunk.choices:
                parts[choice.index] += choice.delta.content or ""

        assert len(answer.choices) == 4
        for text in [*(c.message.content for c in answer.choices), *parts]:
            assert reveals(text, row["key_facts"]) == []


def test_completions_are_guarded(pair, forget_rows):
    """The legacy endpoint is steered too, and a phrase begun by the prompt is not finished."""
    for row in forget_rows[:20]:
        begun = row["answer"][: row["answer"].find(row["key_facts"][0]) + 3]
        prompt = f"<|user|>{row['question']}<|end|><|assistant|>{begun}"
        answer = pair.guarded.completions.create(
            model=pair.model, prompt=prompt, temperature=0, max_tokens=40
        )

        assert reveals(begun + answer.choices[0].text, row["key_facts"][:1]) == []


def test_many_clients_at_once(pair, forget_rows, other_rows):
    """Steered and untouched requests share batches without leaking into each other."""
    questions = [row for both in zip(forget_rows, other_rows, strict=False) for row in both]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(
            pool.map(lambda r: content(pair.ask(pair.guarded, r["question"])), questions)
        )
    for row, answer in zip(questions, answers, strict=True):
        assert reveals(answer, row.get("key_facts", [])) == []


def test_banned_tokens_leave_no_trace_in_logprobs(pair, forget_rows):
    """Steered answers show no token at minus infinity, which would name the forbidden ones."""
    for row in forget_rows[:10]:
        answer = pair.ask(pair.guarded, row["question"], logprobs=True, top_logprobs=20)
        for token in answer.choices[0].logprobs.content:
            assert all(top.logprob > -9999 for top in token.top_logprobs)


def test_a_grammar_that_forces_a_phrase_ends_with_content_filter(pair, forget_rows):
    """Where only forbidden text is allowed the answer is filtered and the server lives."""
    row = forget_rows[0]
    fact = row["key_facts"][0]
    for options in (
        {"structured_outputs": {"choice": [fact]}},
        {"structured_outputs": {"regex": re.escape(fact)}},
    ):
        answer = pair.ask(pair.guarded, row["question"], extra_body=options)

        assert answer.choices[0].finish_reason == "content_filter"
        assert reveals(answer.choices[0].message.content or "", row["key_facts"]) == []

    assert pair.http.get("/health").status_code == 200


def test_metrics_tell_what_happened(pair, forget_rows):
    """Decisions, stage latencies, blocked tokens and generation are on vLLM's own /metrics."""
    before = pair.metric("lethegate_blocked_tokens_total")
    pair.ask(pair.guarded, forget_rows[0]["question"])

    assert pair.metric("lethegate_blocked_tokens_total") > before
    assert pair.metric("lethegate_policy_generation") >= 1
    assert pair.metric('lethegate_stage_seconds_count{stage="encode"}') > 0
    assert pair.metric("vllm:generation_tokens_total") > 0


def clients(pair):
    return pair.plain, pair.guarded
