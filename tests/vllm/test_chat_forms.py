"""vLLM's own forms of chats, batches of them and completions: no field is unknown to the guard."""

import warnings

import pytest

from server.admission import _REASONS
from server.conversation import _CHAT_FIELDS, _CHAT_LISTS, _SHARED_FIELDS, _SHARED_LISTS
from server.lenient import integer

pytestmark = pytest.mark.vllm

READ = {"messages", "prompt", "suffix", *_SHARED_FIELDS, *_CHAT_FIELDS}
READ |= {*_SHARED_LISTS, *_CHAT_LISTS}
REFUSED = {*_REASONS, "echo", "truncation_side"}
# What an answer says of these is shielded, or they say nothing of the model.
HARMLESS = {
    # sampling; the worker's filter comes behind it
    *("allowed_token_ids", "bad_words", "best_of", "early_stopping", "frequency_penalty"),
    *("ignore_eos", "length_penalty", "logit_bias", "max_completion_tokens", "max_tokens"),
    *("min_p", "min_tokens", "n", "presence_penalty", "reasoning_effort", "repetition_detection"),
    *("repetition_penalty", "seed", "stop", "stop_token_ids", "temperature", "top_k", "top_p"),
    *("thinking_token_budget", "watermarking", "guided_decoding_backend"),
    # how the prompt is made of texts that are read
    *("add_generation_prompt", "add_special_tokens", "continue_final_message"),
    *("truncate_prompt_tokens", "parallel_tool_calls"),
    # pictures and sounds, which are refused themselves
    *("media_io_kwargs", "mm_payload", "mm_processor_kwargs", "return_mm_kwargs"),
    # how the answer is told
    *("include_reasoning", "include_stop_str_in_output", "logprobs", "top_logprobs"),
    *("return_prompt_text", "return_token_ids", "return_token_offsets"),
    *("return_tokens_as_token_ids", "routed_experts_prompt_start", "skip_special_tokens"),
    *("spaces_between_special_tokens", "stream", "stream_interval", "stream_options"),
    # whose request it is
    *("cache_salt", "model", "priority", "request_id", "session_id", "user", "vllm_xargs"),
}


@pytest.fixture(scope="module")
def requests():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from vllm.entrypoints.openai.chat_completion import protocol as chat
        from vllm.entrypoints.openai.completion import protocol as completion
    return chat.ChatCompletionRequest, chat.BatchChatCompletionRequest, completion.CompletionRequest


def test_every_field_is_known(requests):
    """A field that a new vLLM adds has to be read, refused or called harmless first."""
    fields = {field for request in requests for field in request.model_fields}

    assert fields - READ - REFUSED - HARMLESS == set()


@pytest.mark.parametrize("value", [3, 3.0, "3", "3.0", " 3 ", "+3", "1_0", True, 2.5, "three", [3]])
def test_numbers_are_read_as_vllm_reads_them(requests, value):
    """A number of choices that only one of the two understood would leave choices unjudged."""
    turns = [{"role": "user", "content": "hi"}]
    try:
        read = requests[0].model_validate({"messages": turns, "n": value}).n
    except ValueError:
        read = None

    assert integer(value) == read


def test_a_batch_hands_the_guards_parameters_on(requests):
    """Its form does not name them, and still every conversation's request has them."""
    xargs = {"lethegate_digest": "d", "lethegate_nonce": 1, "lethegate_targets": [0]}
    turns = [{"role": "user", "content": "hi"}]
    batch = requests[1].model_validate({"messages": [turns, turns], "vllm_xargs": xargs})

    assert batch.to_chat_completion_request(turns).vllm_xargs == xargs
    assert batch.to_chat_completion_request(turns).to_sampling_params(5, {}).extra_args == xargs
