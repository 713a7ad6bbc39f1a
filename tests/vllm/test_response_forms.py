"""vLLM's own side of the Responses API, without an engine: what it takes and how it streams."""

import json
import warnings

import pytest

from detectors.targets import Phrase
from guard.phrase_matcher import PhraseMatcher
from guard.shield import OutputShield
from server.admission import _REASONS
from server.apis import responses
from server.apis.response_shield import shield_response
from server.apis.response_stream import ResponseStream
from server.choice_shield import ShieldPolicy
from server.stream_form import StreamForm

pytestmark = pytest.mark.vllm

JUDGED = {"input", "instructions", "tools", *responses._SHAPING}
REFUSED = {*responses._REASONS, *_REASONS}
# The gateway's own business.
OURS = {"previous_response_id", "background", "store", "request_id", "stream"}
# No text of theirs reaches the model, or it is the guard's own, or what it brings is shielded.
HARMLESS = {
    *("include", "max_output_tokens", "max_tool_calls", "metadata", "model", "logit_bias"),
    *("parallel_tool_calls", "reasoning", "include_reasoning", "service_tier", "temperature"),
    *("top_logprobs", "top_p", "top_k", "min_p", "truncation", "user", "skip_special_tokens"),
    *("include_stop_str_in_output", "presence_penalty", "frequency_penalty", "prompt_cache_key"),
    *("watermarking", "session_id", "priority", "cache_salt", "repetition_penalty", "seed"),
    *("stop", "stop_token_ids", "ignore_eos", "vllm_xargs"),
    # pictures and sounds, which are refused themselves
    *("media_io_kwargs", "mm_payload", "mm_processor_kwargs", "return_mm_kwargs"),
}


@pytest.fixture(scope="module")
def vllm_responses():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from vllm.entrypoints.openai.responses import protocol, streaming_events, utils
    return protocol, streaming_events, utils


def test_every_field_is_known(vllm_responses):
    """A field that a new vLLM adds has to be judged, refused or called harmless first."""
    fields = set(vllm_responses[0].ResponsesRequest.model_fields)

    assert fields - JUDGED - REFUSED - OURS - HARMLESS == set()


def test_the_guards_parameters_reach_the_engine(vllm_responses):
    """They survive the way into the sampling parameters."""
    xargs = {"lethegate_digest": "d", "lethegate_nonce": 1, "lethegate_targets": [0]}
    request = vllm_responses[0].ResponsesRequest.model_validate({"input": "x", "vllm_xargs": xargs})

    assert request.to_sampling_params(5).extra_args == xargs


def streamed(vllm_responses):
    """The events of vLLM's own processor: reasoning, text, a function's call, a custom call."""
    from vllm.entrypoints.generate.base.protocol import (
        DeltaFunctionCall,
        DeltaMessage,
        DeltaToolCall,
    )
    from vllm.outputs import CompletionOutput

    protocol, streaming_events, _ = vllm_responses
    custom = {"type": "custom", "name": "run"}
    function = {"type": "function", "name": "look", "parameters": {}, "strict": False}
    body = {"input": "x", "instructions": "be kind", "tools": [custom, function], "model": "m"}
    request = protocol.ResponsesRequest.model_validate(body)
    processor = streaming_events.SimpleStreamingEventProcessor(tools=request.tools)
    output = CompletionOutput(0, "", [], None, None)

    def call(index, arguments, **named):
        function = DeltaFunctionCall(arguments=arguments, **named)
        return DeltaMessage(
            tool_calls=[DeltaToolCall(index=index, type="function", function=function)]
        )

    deltas = [DeltaMessage(reasoning=text) for text in ("Let me", " see.")]
    deltas += [DeltaMessage(content=text) for text in ("It was", " easy.")]
    deltas += [call(0, '{"q": "Jo', name="look"), call(0, 'hn Smith"}')]
    deltas += [call(1, '{"input": "a', name="run"), call(1, ' b"}')]
    logprob = streaming_events.response_output_text.Logprob(
        token="t", bytes=[116], logprob=-0.5, top_logprobs=[]
    )
    events = []
    for delta in deltas:
        state, tool = processor.resolve_target_state(delta)
        if processor.needs_transition(state, tool):
            events += processor.close_current() + processor.open(state, tool)
        events += processor.emit_delta(delta, output, lambda _: [logprob])
    events += processor.close_current()
    params = request.to_sampling_params(5)

    def response(items, status):
        return protocol.ResponsesResponse.from_request(
            request, params, model_name="m", created_time=1, output=items, status=status
        )

    begun, done = response([], "in_progress"), response(processor.output_items, "completed")
    kinds = (
        (protocol.ResponseCreatedEvent, "created"),
        (protocol.ResponseInProgressEvent, "in_progress"),
    )
    first = [kind(type=f"response.{n}", sequence_number=0, response=begun) for kind, n in kinds]
    last = protocol.ResponseCompletedEvent(
        type="response.completed", sequence_number=0, response=done
    )
    all_events = [*first, *events, last]
    for number, event in enumerate(all_events):
        event.sequence_number = number
    raw = "".join(
        f"event: {e.type}\ndata: {e.model_dump_json(indent=None, by_alias=True)}\n\n"
        for e in all_events
    )
    whole = json.dumps(done.model_dump(mode="json", by_alias=True)).encode()
    return raw.encode(), whole


def policy_of(phrases):
    matcher = PhraseMatcher(phrases)
    return ShieldPolicy([lambda: OutputShield([matcher])], lambda _: "")


def shielded(raw, phrases):
    stream = ResponseStream(
        policy_of(phrases), StreamForm(chat=True, num_choices=1), lambda *_: None
    )
    return stream.feed(raw) + stream.close()


def test_every_event_of_vllms_stream_is_understood(vllm_responses):
    """Nothing is unknown, and where nothing is caught nothing is changed."""
    raw, whole = streamed(vllm_responses)

    assert raw.count(b"event: response.output_item.added") == 4
    assert shielded(raw, []) == raw
    assert shield_response(policy_of([]), whole, lambda *_: None).body == whole


def test_a_phrase_in_a_tool_call_ends_vllms_stream(vllm_responses):
    """Split over deltas; what stood before it is shown, and nothing after it."""
    raw, whole = streamed(vllm_responses)
    shown = shielded(raw, [Phrase("John Smith")])
    cut = json.loads(
        shield_response(policy_of([Phrase("John Smith")]), whole, lambda *_: None).body
    )

    assert b"hn Smith" in raw
    assert b"Smith" not in shown
    assert shown.count(b"event: response.output_item.added") == 3
    assert shown.count(b"event: response.output_item.done") == 3
    last = json.loads(shown.rsplit(b"data: ", 1)[1])
    assert last["response"]["incomplete_details"] == {"reason": "content_filter"}
    assert [item["type"] for item in last["response"]["output"]] == [
        item["type"] for item in cut["output"]
    ]
    assert last["response"]["output"][2]["arguments"] == cut["output"][2]["arguments"]
