"""Anthropic's messages and batches of chats, through real servers and the official client."""

import re

import anthropic
import pytest

from detectors.normaliser import fold

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(2400)]

ROWS = 8


def reveals(text, facts):
    """The key facts that a text gives away, as whole words."""
    said = fold(text)
    return [f for f in facts if re.search(rf"(?<!\w){re.escape(fold(f))}(?!\w)", said)]


def client(base_url):
    return anthropic.Anthropic(base_url=str(base_url), api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def guarded(pair):
    return client(pair.http.base_url)


@pytest.fixture(scope="module")
def plain(pair):
    return client(str(pair.plain.base_url).removesuffix("/v1/"))


def request(pair, text, **more):
    messages = [{"role": "user", "content": text}]
    return {"model": pair.model, "messages": messages, "max_tokens": 60, "temperature": 0} | more


def text_of(message):
    return "".join(block.text for block in message.content if block.type == "text")


def streamed(anthropic_client, **fields):
    fields["extra_body"] = {"temperature": fields.pop("temperature")}
    with anthropic_client.messages.stream(**fields) as stream:
        return stream.get_final_message()


def whole(anthropic_client, **fields):
    fields["extra_body"] = {"temperature": fields.pop("temperature")}
    return anthropic_client.messages.create(**fields)


def test_forget_questions_leak_no_key_fact(pair, guarded, plain, forget_rows):
    """Streamed and whole alike, while plain vLLM gives most of them away."""
    leaks = 0
    for row in forget_rows[:ROWS]:
        asked = request(pair, row["question"])
        message, stream = whole(guarded, **asked), streamed(guarded, **asked)

        assert reveals(text_of(message), row["key_facts"]) == []
        assert text_of(stream) == text_of(message)
        assert stream.stop_reason == message.stop_reason
        assert stream.usage.output_tokens > 0
        leaks += bool(reveals(text_of(whole(plain, **asked)), row["key_facts"]))
    assert leaks >= ROWS // 2


def test_other_answers_are_plain_vllms(pair, guarded, plain, other_rows):
    """The same blocks for the same question."""
    for row in other_rows[:4]:
        asked = request(pair, row["question"])

        assert text_of(whole(guarded, **asked)) == text_of(whole(plain, **asked))


def test_the_question_in_every_kind_of_block(pair, guarded, forget_rows):
    """Tool results, inputs, thinking, system prompts and prefilled answers are read."""
    row = forget_rows[0]
    question, go_on = row["question"], [{"role": "user", "content": "Go on."}]
    call = {"type": "tool_use", "id": "t", "name": "ask", "input": {"q": question}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": question}
    start = row["answer"][: len(row["answer"]) // 2]
    for changes in (
        {"system": [{"type": "text", "text": question}], "messages": go_on},
        {"messages": [{"role": "assistant", "content": [call]}, *go_on]},
        {"messages": [{"role": "user", "content": [result]}]},
        {
            "messages": [
                {"role": "user", "content": question},
                {"role": "assistant", "content": start},
            ]
        },
    ):
        raw = pair.http.post(
            "/v1/messages",
            json=request(pair, "", **changes),
            headers={"x-api-key": pair.admin_key},
        )

        assert raw.status_code in (200, 400), raw.text  # a template may refuse an order of turns
        assert reveals(raw.text.replace(start, ""), row["key_facts"]) == []
        if raw.status_code == 200:
            assert raw.headers["x-lethegate-decision"] == "steer"


def test_errors_are_anthropics(pair, guarded):
    """The official client finds its own classes."""
    asked = request(pair, "Hello?")
    image = {"type": "image", "source": {"type": "url", "url": "http://localhost/x.png"}}
    with pytest.raises(anthropic.NotFoundError):
        whole(guarded, **asked | {"model": "nobody"})
    for changes in (
        {"vllm_xargs": {"lethegate_digest": "0"}},
        {"messages": [{"role": "user", "content": [image]}]},
        {"messages": "x"},
    ):
        answer = pair.http.post("/v1/messages", json=asked | changes)

        assert answer.status_code == 400
        assert answer.json()["error"]["type"] == "invalid_request_error"


def test_tokens_are_counted(pair, guarded):
    """Counting needs no guard."""
    counted = guarded.messages.count_tokens(
        model=pair.model, messages=[{"role": "user", "content": "Hello?"}]
    )

    assert counted.input_tokens > 0


def test_a_batch_of_conversations_is_guarded(pair, forget_rows, other_rows):
    """Each conversation gets one choice, and none of them gives its key facts away."""
    rows = [forget_rows[0], other_rows[0], forget_rows[1]]
    messages = [[{"role": "user", "content": row["question"]}] for row in rows]
    body = {"model": pair.model, "messages": messages, "temperature": 0, "max_tokens": 60}
    choices = pair.http.post("/v1/chat/completions/batch", json=body).json()["choices"]

    assert [choice["index"] for choice in choices] == [0, 1, 2]
    for row, choice in zip(rows, choices, strict=True):
        if row is not other_rows[0]:
            assert reveals(choice["message"]["content"], row["key_facts"]) == []
