"""The hard ban beside everything else that moves logits: never emitted holds, and the server lives.

The requests put vLLM's own rules on the side of the forbidden text, as a hostile client would.
"""

import re

import pytest

from detectors.normaliser import fold

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(2400)]

ROWS = 8


def reveals(text, facts):
    """The key facts that a text gives away, as whole words."""
    said = fold(text)
    return [f for f in facts if re.search(rf"(?<!\w){re.escape(fold(f))}(?!\w)", said)]


def token_ids(pair, text):
    body = {"model": pair.model, "prompt": text, "add_special_tokens": False}
    return pair.http.post("/tokenize", json=body).json()["tokens"]


def fact_ids(pair, row):
    texts = [row["answer"], *row["key_facts"], *(f" {fact}" for fact in row["key_facts"])]
    return sorted({token for text in texts for token in token_ids(pair, text)})


def schema(*values):
    properties = {"answer": {"enum": list(values)}}
    required = {"required": ["answer"], "additionalProperties": False}
    return {"json": {"type": "object", "properties": properties} | required}


@pytest.fixture(autouse=True)
def lives(pair, other_rows):
    """After every test the server answers, with finite log-probabilities."""
    yield

    answer = pair.ask(pair.guarded, other_rows[0]["question"], logprobs=True, max_tokens=8)
    assert all(token.logprob > -1e4 for token in answer.choices[0].logprobs.content)


def ask(pair, row, **more):
    """The choices of a steered answer, none of which gives a key fact away."""
    standard = {"n", "temperature", "seed", "stop", "logit_bias", "max_tokens", "logprobs"}
    own = {key: more.pop(key) for key in standard & more.keys()}
    answer = pair.ask(pair.guarded, row["question"], extra_body=more, **own)
    for choice in answer.choices:
        assert reveals(choice.message.content or "", row["key_facts"]) == []
    return answer.choices


def test_logit_bias(pair, forget_rows):
    """The tokens of the forbidden answer are pushed up as far as the API lets a client."""
    for row in forget_rows[:ROWS]:
        bias = {str(token): 100 for token in fact_ids(pair, row)}

        assert ask(pair, row, logit_bias=bias)


def test_allowed_token_ids(pair, forget_rows):
    """Only the tokens of the forbidden answer are allowed: the text goes astray or is cut."""
    for row in forget_rows[:ROWS]:
        (choice,) = ask(pair, row, allowed_token_ids=fact_ids(pair, row), max_tokens=40)

        assert choice.finish_reason in ("length", "content_filter", "stop")


def test_min_tokens(pair, forget_rows):
    """An answer that may not end early does not say it either, and one that must end does."""
    fact = forget_rows[0]["key_facts"][0]
    for row in forget_rows[:ROWS]:
        ask(pair, row, min_tokens=60)
    (choice,) = ask(
        pair, forget_rows[0], min_tokens=40, structured_outputs={"regex": re.escape(fact)}
    )

    assert choice.finish_reason == "content_filter"


def test_stop_strings(pair, forget_rows):
    """A stop string inside the phrase, kept in the output, does not carry it over."""
    for row in forget_rows[:ROWS]:
        fact = row["key_facts"][0]

        assert ask(pair, row, stop=[fact[-2:], fact[:2]], include_stop_str_in_output=True)


def test_bad_words(pair, forget_rows):
    """vLLM's own bad words, here what the model would rather say, do not push it over."""
    for row in forget_rows[:ROWS]:
        assert ask(pair, row, bad_words=["the", "The", "is", "a"])


def assert_cut_or(choice, text):
    """The ban knows nothing of the grammar: a row may go a forbidden way until it is cut."""
    if choice.finish_reason == "content_filter":
        assert choice.message.content != text
    else:
        assert (choice.message.content, choice.finish_reason) == (text, "stop")


def test_grammars_with_a_way_out(pair, forget_rows):
    """Where a grammar allows something else, the answer is that, or it is cut."""
    for row in forget_rows[:ROWS]:
        fact = row["key_facts"][0]
        (choice,) = ask(pair, row, structured_outputs={"choice": [fact, "unknown"]})
        assert_cut_or(choice, "unknown")

        bias = {str(token_ids(pair, "unknown")[0]): 100}
        (choice,) = ask(
            pair, row, structured_outputs={"choice": [fact, "unknown"]}, logit_bias=bias
        )
        assert (choice.message.content, choice.finish_reason) == ("unknown", "stop")


def test_grammars_without_a_way_out_are_cut(pair, forget_rows):
    """Where a grammar allows only the phrase, the answer is filtered and not whole.

    JSON has white space as a way out, which lasts until the answer is long enough.
    """
    for row in forget_rows[:ROWS]:
        fact = row["key_facts"][0]
        for grammar in ({"choice": [fact]}, {"regex": f"(The answer is )?{re.escape(fact)}"}):
            (choice,) = ask(pair, row, structured_outputs=grammar)

            assert choice.finish_reason == "content_filter"

        (choice,) = ask(pair, row, structured_outputs=schema(fact))

        assert choice.finish_reason in ("content_filter", "length")


def test_emphasis_hides_nothing(pair, forget_rows):
    """A phrase in Markdown's italics, or with each of its words in bold, is the phrase."""
    for row in forget_rows[:3]:
        fact = row["key_facts"][0]
        for written in (f"_{fact}_", " ".join(f"**{word}**" for word in fact.split())):
            (choice,) = ask(pair, row, structured_outputs={"regex": re.escape(written)})

            assert choice.finish_reason == "content_filter"
            assert fold(fact) not in fold(choice.message.content or "")


def test_several_choices(pair, forget_rows):
    """All of n sampled choices are held, free, under a grammar and with biased logits."""
    for row in forget_rows[:ROWS]:
        fact = row["key_facts"][0]
        sampled = {"n": 4, "temperature": 1.5, "seed": 5}
        bias = {str(token): 5 for token in fact_ids(pair, row)}

        assert len(ask(pair, row, **sampled)) == 4
        assert len(ask(pair, row, logit_bias=bias, **sampled)) == 4

        choices = ask(pair, row, structured_outputs={"choice": [fact, "unknown"]}, **sampled)

        assert len(choices) == 4
        for choice in choices:
            assert_cut_or(choice, "unknown")


def test_thinking_budgets(pair, forget_rows):
    """Tokens that vLLM forces after the ban, when a budget is used up, do not get out either."""
    row = next(row for row in forget_rows if "Kuwait" in " ".join(row["key_facts"]))
    thinking = {**row, "question": f"{row['question']}\nThink:"}
    budget = {"thinking_token_budget": 1}

    plain = pair.ask(pair.plain, thinking["question"], extra_body=budget)
    assert "Kuwait City" in plain.choices[0].message.content

    (choice,) = ask(pair, thinking, **budget)
    assert choice.finish_reason == "content_filter"

    streamed = pair.ask(pair.guarded, thinking["question"], stream=True, extra_body=budget)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in streamed)
    assert reveals(text, row["key_facts"]) == []


def test_everything_at_once(pair, forget_rows):
    """Rules that contradict each other empty a row without NaN, crash or leak."""
    for row in forget_rows[:ROWS]:
        ids = fact_ids(pair, row)
        fact = row["key_facts"][0]

        assert ask(
            pair,
            row,
            n=2,
            temperature=1.0,
            seed=1,
            logit_bias={str(token): 50 for token in ids},
            structured_outputs={"regex": f"[a-z ]{{0,20}}{re.escape(fact)}"},
            min_tokens=5,
            stop=["zz"],
            bad_words=["zz"],
        )
