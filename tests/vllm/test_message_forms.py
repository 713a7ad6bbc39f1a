"""vLLM's own side of Anthropic's messages, without an engine: what it takes and how it streams."""

import asyncio
import json
import typing
import warnings

import pytest

from detectors.targets import Phrase
from guard.phrase_matcher import PhraseMatcher
from guard.shield import OutputShield
from server.apis import messages
from server.apis.message_stream import MessageStream
from server.choice_shield import ShieldPolicy
from server.stream_form import StreamForm

pytestmark = pytest.mark.vllm

# Read by the guard, or refused by it.
JUDGED = {"messages", "system", "tools", "tool_choice", "output_config", "chat_template_kwargs"}
JUDGED |= {"kv_transfer_params", "ec_transfer_params"}
# No text of theirs reaches the model, or it is the guard's own.
HARMLESS = {"model", "max_tokens", "metadata", "thinking", "stop_sequences", "stream", "vllm_xargs"}
HARMLESS |= {"temperature", "top_k", "top_p", "cache_salt", "watermarking"}
HARMLESS |= {"mm_payload", "return_mm_kwargs"}


@pytest.fixture(scope="module")
def vllm_messages():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from vllm.entrypoints.anthropic import protocol, serving
    return protocol, serving.AnthropicServingMessages


def test_every_field_is_known(vllm_messages):
    """A field that a new vLLM adds has to be judged, refused or called harmless first."""
    protocol, _ = vllm_messages

    assert set(protocol.AnthropicMessagesRequest.model_fields) == JUDGED | HARMLESS


def test_every_kind_of_block_is_known(vllm_messages):
    """All kinds may be sent but pictures."""
    protocol, _ = vllm_messages
    kind = protocol.AnthropicContentBlock.model_fields["type"].annotation

    assert set(typing.get_args(kind)) - {"image"} == messages._BLOCKS.keys()


def test_the_guards_parameters_reach_the_engine(vllm_messages):
    """They survive the way into a chat request."""
    protocol, serving = vllm_messages
    xargs = {"lethegate_digest": "d", "lethegate_nonce": 1, "lethegate_targets": [0]}
    turns = [{"role": "user", "content": "hi"}]
    body = {"model": "m", "max_tokens": 5, "messages": turns, "vllm_xargs": xargs}
    request = protocol.AnthropicMessagesRequest.model_validate(body)

    assert serving.to_chat_completion_request(request).vllm_xargs == xargs


def chunk(delta, finish=None, stop=None):
    choice = {"index": 0, "delta": delta, "finish_reason": finish, "stop_reason": stop}
    return chat_chunk([choice])


def chat_chunk(choices):
    usage = {"prompt_tokens": 5, "total_tokens": 6, "completion_tokens": 1}
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return f"data: {json.dumps({**head, 'choices': choices, 'usage': usage})}\n\n"


def call(arguments, **first):
    return {"tool_calls": [{"index": 0, **first, "function": {"arguments": arguments}}]}


async def chat_stream():
    named = {"index": 0, "id": "t", "type": "function", "function": {"name": "f", "arguments": ""}}
    yield chunk({"role": "assistant", "content": ""})
    yield chunk({"reasoning": "Let me see."})
    yield chunk({"content": "It was"})
    yield chunk({"tool_calls": [named]})
    yield chunk(call('{"q": "John'))
    yield chunk(call(' Smith"}'))
    yield chunk({"content": " So."})
    yield chunk({}, "stop", "END")
    yield chat_chunk([])
    yield "data: [DONE]\n\n"


def converted(serving, phrases):
    """vLLM's stream of a message, and what the shield makes of it."""
    matcher = PhraseMatcher(phrases)
    policy = ShieldPolicy([lambda: OutputShield([matcher])], lambda _: "")
    stream = MessageStream(policy, StreamForm(chat=True, num_choices=1), lambda *_: None)

    async def run():
        converter = serving.message_stream_converter(object.__new__(serving), chat_stream())
        events = [event.encode() async for event in converter]
        return b"".join(events), b"".join(map(stream.feed, events)) + stream.close()

    return asyncio.run(run())


def test_every_event_of_vllms_stream_is_understood(vllm_messages):
    """Nothing is unknown, and where nothing is caught nothing is changed."""
    raw, shown = converted(vllm_messages[1], [])

    assert raw.count(b"event: content_block_start") == 4
    assert shown == raw


def test_a_phrase_in_a_tool_call_ends_vllms_stream(vllm_messages):
    """Split over deltas; the block is closed and the usage is the engine's."""
    raw, shown = converted(vllm_messages[1], [Phrase("John Smith")])

    assert b"Smith" in raw
    assert b"John" not in shown
    assert shown.count(b"event: content_block_start") == shown.count(b"event: content_block_stop")
    assert b'"stop_reason":"refusal"' in shown
    assert b'"output_tokens":1' in shown
