"""Traces of the real server: vLLM's own span stands in the gateway's."""

import time

import pytest

pytestmark = pytest.mark.vllm

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
HEADERS = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}


@pytest.fixture(scope="module")
def traced(pair, collector, forget_rows):
    """All spans, among them those of a steered request in a client's trace; it is the newest."""
    pair.ask(pair.guarded, forget_rows[0]["question"], extra_headers=HEADERS)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        spans = collector.spans()
        found = {span.name: span for span in spans if span.trace_id.hex() == TRACE}
        if {"lethegate.request", "llm_request"} <= set(found):
            return spans, found
        time.sleep(0.2)
    raise AssertionError("the spans did not arrive")


def test_vllms_span_is_a_child_of_the_gateways(traced):
    """The client's trace leads through the gateway into the engine."""
    _, found = traced

    assert found["lethegate.request"].parent_span_id.hex() == "00f067aa0ba902b7"
    assert found["lethegate.engine"].parent_span_id == found["lethegate.request"].span_id
    assert found["llm_request"].parent_span_id == found["lethegate.engine"].span_id
    assert {"lethegate.screen", "lethegate.shield"} <= set(found)


def test_times_lie_within_each_other(traced):
    """The engine's part is within the request's."""
    _, found = traced
    outer, inner = found["lethegate.request"], found["lethegate.engine"]

    assert outer.start_time_unix_nano <= inner.start_time_unix_nano
    assert inner.end_time_unix_nano <= outer.end_time_unix_nano


def test_no_forget_text_is_in_any_span(traced, forget_rows, demo_target):
    """Neither in the gateway's spans nor in vLLM's, of all requests that were made so far."""
    spans, _ = traced
    told = "".join(str(span) for span in spans).lower()
    secrets = [row["question"] for row in forget_rows] + [row["answer"] for row in forget_rows]
    secrets += [*demo_target["aliases"], demo_target["id"]]

    assert len(spans) >= 5
    assert not [secret for secret in secrets if secret.lower() in told]
