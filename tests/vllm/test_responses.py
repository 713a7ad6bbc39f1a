"""The Responses API through real servers and the official client."""

import re
import time

import openai
import pytest

from detectors.normaliser import fold

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(2400)]

ROWS = 6
# What differs between two servers, or between two answers of one.
OWN = {"id", "created_at", "created", "item_id", "previous_response_id"}


def reveals(text, facts):
    """The key facts that a text gives away, as whole words."""
    said = fold(text)
    return [f for f in facts if re.search(rf"(?<!\w){re.escape(fold(f))}(?!\w)", said)]


def ask(pair, client, given, **more):
    fields = {"temperature": 0, "max_output_tokens": 60} | more
    return client.responses.create(model=pair.model, input=given, **fields)


def streamed(pair, client, given, **more):
    with ask(pair, client, given, stream=True, **more) as stream:
        return list(stream)


def without_own(value, own=frozenset(OWN)):
    """An answer without ids and times."""
    if isinstance(value, dict):
        return {k: without_own(v, own) for k, v in value.items() if k not in own}
    return [without_own(v, own) for v in value] if isinstance(value, list) else value


def told(events):
    """What a stream said, however its deltas are cut, which depends on the machine's load.

    A token without text (the end's) has log-probabilities only if it comes with others.
    """
    deltas = [e.model_dump() for e in events if e.type == "response.output_text.delta"]
    text, spelled = "".join(delta["delta"] for delta in deltas), []
    for token in (token for delta in deltas for token in delta["logprobs"]):
        if text.startswith("".join(t["token"] for t in (*spelled, token))):
            spelled.append(token)
    others = [e.model_dump() for e in events if e.type != "response.output_text.delta"]
    return text, spelled, without_own(others, OWN | {"sequence_number", "logprobs"})


def test_forget_questions_leak_no_key_fact(pair, forget_rows):
    """Streamed, whole and retrieved alike, while plain vLLM gives most of them away."""
    leaks = 0
    for row in forget_rows[:ROWS]:
        answer = ask(pair, pair.guarded, row["question"])
        events = streamed(pair, pair.guarded, row["question"])
        deltas = "".join(e.delta for e in events if e.type == "response.output_text.delta")
        stored = pair.guarded.responses.retrieve(answer.id)

        assert reveals(answer.output_text, row["key_facts"]) == []
        assert deltas == events[-1].response.output_text == answer.output_text
        assert stored.output_text == answer.output_text
        assert events[-1].response.usage.output_tokens > 0
        leaks += bool(reveals(ask(pair, pair.plain, row["question"]).output_text, row["key_facts"]))
    assert leaks >= ROWS // 2


def test_other_answers_are_plain_vllms(pair, other_rows):
    """Whole and streamed, log-probabilities included, but for ids and times."""
    include = ["message.output_text.logprobs"]
    for row in other_rows[:3]:
        more = {"include": include, "top_logprobs": 2, "instructions": "Be short."}
        whole = [ask(pair, c, row["question"], **more) for c in (pair.guarded, pair.plain)]
        events = [streamed(pair, c, row["question"], **more) for c in (pair.guarded, pair.plain)]

        assert without_own(whole[0].model_dump()) == without_own(whole[1].model_dump())
        assert whole[0].output[0].content[0].logprobs
        assert told(events[0]) == told(events[1])


def test_a_conversation_goes_on_as_in_plain_vllm(pair, other_rows):
    """By the response's id, where plain vLLM gets it written out."""
    first, second = (row["question"] for row in other_rows[:2])
    begun = ask(pair, pair.guarded, first)
    answer = ask(pair, pair.guarded, second, previous_response_id=begun.id)
    turns = [("user", first), ("assistant", begun.output_text), ("user", second)]
    plain = ask(pair, pair.plain, [{"role": role, "content": text} for role, text in turns])

    assert answer.output_text == plain.output_text
    assert answer.usage.input_tokens == plain.usage.input_tokens
    assert answer.previous_response_id == begun.id


def test_the_question_in_an_earlier_turn(pair, forget_rows):
    """It is read again in every turn, whoever sent it."""
    row = forget_rows[0]
    admin = pair.guarded.with_options(api_key=pair.admin_key)
    begun = ask(pair, admin, row["question"])
    raw = admin.responses.with_raw_response.create(
        model=pair.model, input="Go on.", previous_response_id=begun.id, max_output_tokens=60
    )

    assert raw.headers["x-lethegate-decision"] == "steer"
    assert reveals(raw.parse().output_text, row["key_facts"]) == []
    with pytest.raises(openai.NotFoundError):
        pair.guarded.responses.retrieve(begun.id)


def test_the_question_in_every_kind_of_item(pair, forget_rows):
    """Instructions, calls, results, reasoning and an answer that is gone on with are read."""
    row = forget_rows[0]
    question, go_on = row["question"], {"role": "user", "content": "Go on."}
    start = row["answer"][: len(row["answer"]) // 2]
    call = {"type": "function_call", "call_id": "c", "name": "ask", "arguments": "{}"}
    part = [{"type": "output_text", "text": start, "annotations": []}]
    begun = {"type": "message", "role": "assistant", "status": "incomplete", "content": part}
    for changes in (
        {"instructions": question, "input": "Go on."},
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": question}]}]},
        {"input": [call | {"arguments": f'{{"q": "{question}"}}'}, go_on]},
        {"input": [call, {"type": "function_call_output", "call_id": "c", "output": question}]},
        {
            "input": [
                {
                    "type": "reasoning",
                    "summary": [],
                    "content": [{"type": "reasoning_text", "text": question}],
                },
                go_on,
            ]
        },
        {"input": [{"role": "user", "content": question}, begun]},
    ):
        body = {"model": pair.model, "temperature": 0, "max_output_tokens": 60, **changes}
        key = {"authorization": f"Bearer {pair.admin_key}"}
        raw = pair.http.post("/v1/responses", json=body, headers=key)

        assert raw.status_code in (200, 400), raw.text  # a template may refuse an order of turns
        if raw.status_code == 200:
            said = "".join(p["text"] for item in raw.json()["output"] for p in item["content"])
            assert raw.headers["x-lethegate-decision"] == "steer"
            assert reveals(said.replace(start, ""), row["key_facts"]) == []


def test_structured_outputs_cannot_force_a_fact(pair, forget_rows):
    """The end that the worker forces violates the grammar; that is no error of the client's."""
    row = forget_rows[0]
    schema = {
        "type": "object",
        "properties": {"answer": {"type": "string", "enum": [row["answer"]]}},
        "required": ["answer"],
        "additionalProperties": False,
    }
    text = {"format": {"type": "json_schema", "name": "form", "schema": schema, "strict": True}}
    answer = ask(pair, pair.guarded, row["question"], text=text)
    events = streamed(pair, pair.guarded, row["question"], text=text)

    for response in (answer, events[-1].response):
        assert response.incomplete_details.reason == "content_filter"
        assert reveals(response.output_text, row["key_facts"]) == []


def test_the_background_is_guarded(pair, forget_rows):
    """Made without a client that waits, retrieved when it is done; a running one is cancelled."""
    row = forget_rows[0]
    id_ = ask(pair, pair.guarded, row["question"], background=True).id
    deadline = time.monotonic() + 60
    while (answer := pair.guarded.responses.retrieve(id_)).status == "queued":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert answer.status in ("completed", "incomplete")
    assert reveals(answer.output_text, row["key_facts"]) == []
    more = {"background": True, "max_output_tokens": 400, "extra_body": {"ignore_eos": True}}
    running = ask(pair, pair.guarded, "Tell me a long story.", **more).id
    assert pair.guarded.responses.cancel(running).status == "cancelled"
    assert pair.guarded.responses.retrieve(running).status == "cancelled"


def test_what_cannot_be_guarded_is_a_400(pair):
    """Tools of the engine, pictures, the guard's keys, prompts in other forms."""
    picture = [{"type": "input_image", "image_url": "http://localhost/x.png"}]
    for changes in (
        {"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]},
        {"input": [{"role": "user", "content": picture}]},
        {"vllm_xargs": {"lethegate_digest": "0"}},
        {"enable_response_messages": True},
        {"previous_input_messages": [{"role": "user", "content": "x"}]},
    ):
        body = {"model": pair.model, "input": "hi", **changes}
        assert pair.http.post("/v1/responses", json=body).status_code == 400
    missing = pair.http.post("/v1/responses", json={"input": "x", "previous_response_id": "resp_0"})
    assert missing.status_code == 404
