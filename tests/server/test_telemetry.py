"""Traces: which spans there are, what they say and never say, and that nobody waits for them."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from statistics import median

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import ValidationError

from detectors.detection import Detection, Layer, Strength
from detectors.targets import Phrase
from guard.decision import Verdict
from server.log import configure_logging
from server.settings import Settings
from server.telemetry import EXPORT_SECONDS, OpenTelemetry, Telemetry, open_telemetry

SECRET = "Port Sorrel"
CLIENT_TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{CLIENT_TRACE}-b7ad6b7169203331-01"


@pytest.fixture
def exporter():
    return InMemorySpanExporter()


@pytest.fixture
def traced(start_stack, exporter, monkeypatch):
    """A gateway whose spans are kept, and whose guard says what it detected."""
    stack = start_stack(telemetry=OpenTelemetry(SimpleSpanProcessor(exporter)))
    screen = stack.guard.screen

    async def with_detections(*arguments, **options):
        decision = await screen(*arguments, **options)
        if decision.verdict is Verdict.ALLOW:
            return decision
        found = Detection("port-sorrel", Layer.ALIAS, Strength.STRONG, 1.0, 0.5)
        return replace(decision, detections=(found,))

    monkeypatch.setattr(stack.guard, "screen", with_detections)
    return stack


def requests_in(exporter, count=1):
    """The spans of so many requests: they end just after their answers."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = [s for s in exporter.get_finished_spans() if s.name == "lethegate.request"]
        if len(found) >= count:
            return found
        time.sleep(0.01)
    raise AssertionError("the requests' spans did not end")


def spans_of(exporter):
    requests_in(exporter)
    return {span.name.removeprefix("lethegate."): span for span in exporter.get_finished_spans()}


def test_the_spans_of_a_steered_request(traced, exporter):
    """One for each step, in the client's trace; the engine is told of its own."""
    answer = traced.http.post(
        "/v1/chat/completions",
        json={"model": "demo", "messages": [{"role": "user", "content": "about John"}]},
        headers={"traceparent": TRACEPARENT, "x-request-id": "r-1"},
    )
    spans = spans_of(exporter)
    request, engine = spans["request"], spans["engine"]

    assert answer.status_code == 200
    assert set(spans) == {"request", "screen", "engine", "shield"}
    assert {span.context.trace_id for span in spans.values()} == {int(CLIENT_TRACE, 16)}
    assert request.parent.span_id == int("b7ad6b7169203331", 16)
    for name in ("screen", "engine", "shield"):
        assert spans[name].parent.span_id == request.context.span_id
    assert traced.vllm.headers[-1]["traceparent"] == (
        f"00-{CLIENT_TRACE}-{engine.context.span_id:016x}-01"
    )
    seconds = request.attributes["lethegate.shield_seconds"]
    assert 0 < seconds < 60
    assert dict(request.attributes) == {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "lethegate.request_id": "r-1",
        "lethegate.verdict": "steer",
        "lethegate.generation": 7,
        "lethegate.digest": "d" * 64,
        "lethegate.detections": 1,
        "lethegate.observed": 0,
        "lethegate.shield_seconds": seconds,
    }
    assert spans["screen"].attributes["lethegate.verdict"] == "steer"
    assert spans["screen"].attributes["lethegate.characters"] == len("about John")


def test_requests_that_are_not_steered(traced, exporter):
    """Allowed ones have no shield, refused ones no engine; one that nobody sent a trace with has
    one of its own."""
    traced.chat("hello")
    allowed = spans_of(exporter)
    exporter.clear()
    traced.chat("about Mary")
    refused = spans_of(exporter)

    assert set(allowed) == {"request", "screen", "engine"}
    assert set(refused) == {"request", "screen"}
    assert refused["request"].parent is None
    assert refused["request"].attributes["lethegate.verdict"] == "refuse"


def test_a_cut_answer_says_where_and_for_what(traced, exporter):
    """As the counters do."""
    traced.guard.names = [Phrase(SECRET)]
    traced.vllm.says = [["It is ", "Port", " Sorrel", "."]]
    traced.chat("hello", stream=True)
    attributes = spans_of(exporter)["request"].attributes

    assert (attributes["lethegate.cut"], attributes["lethegate.caught"]) == ("content", "name")


def test_no_text_is_in_any_span(traced, exporter):
    """A secret planted wherever a client, the engine or a fault can put one."""
    traced.guard.names = [Phrase(SECRET)]
    traced.vllm.says = [["It is ", SECRET, "."]]
    headers = {
        "x-request-id": SECRET,
        "tracestate": f"vendor={SECRET.replace(' ', '-')}",
        "user-agent": SECRET,
    }
    chat = {"model": SECRET, "messages": [{"role": "user", "content": f"about John {SECRET}"}]}
    traced.http.headers.update(headers)
    for stream in (False, True):
        traced.http.post("/v1/chat/completions", json={**chat, "stream": stream, "user": SECRET})
    traced.http.post("/v1/completions", json={"model": "demo", "prompt": SECRET})
    traced.http.post(f"/v1/{SECRET}", json=chat)
    traced.http.post(f"/v1/responses/{SECRET}/cancel", json={})
    traced.http.post("/v1/chat/completions", content=SECRET)
    traced.http.post(f"/v1/chat/completions?q={SECRET}", json={"messages": SECRET})
    traced.guard.error = RuntimeError(SECRET)
    assert traced.http.post("/v1/chat/completions", json=chat).status_code == 503
    traced.guard.error = None
    traced.guard.nets_error = RuntimeError(SECRET)
    assert traced.http.post("/v1/chat/completions", json=chat).status_code == 500
    traced.guard.nets_error = None
    traced.vllm.error = (500, {"error": {"message": SECRET}})
    traced.http.post("/v1/chat/completions", json=chat)
    requests_in(exporter, 10)
    spans = exporter.get_finished_spans()
    told = "\n".join(span.to_json() for span in spans).lower()

    assert len(spans) > 20
    for spelled in (SECRET, SECRET.replace(" ", "-"), SECRET.replace(" ", "%20"), "john"):
        assert spelled.lower() not in told
    assert not any(span.events for span in spans)
    assert {span.attributes.get("http.route") for span in spans if "request" in span.name} == {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses/{response_id}/cancel",
        "?",
    }


def test_log_lines_carry_the_trace(traced, exporter, capfd):
    """So that a trace and a line are found from each other; without tracing, the client's."""
    configure_logging("info", "json")
    traced.guard.error = RuntimeError(SECRET)
    traced.chat("hello")
    [span] = requests_in(exporter)
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    [line] = [line for line in lines if line.get("event") == "screening_failed"]

    assert line["trace_id"] == f"{span.context.trace_id:032x}"


def test_log_lines_without_tracing(start_stack, capfd):
    """The client's trace id, where it sent one, and its request's id, hashed if it is a text."""
    configure_logging("info", "json")
    stack = start_stack()
    stack.guard.error = RuntimeError(SECRET)
    stack.http.headers.update({"traceparent": TRACEPARENT, "x-request-id": SECRET})
    stack.chat("hello")
    stack.http.headers.update({"traceparent": SECRET})
    stack.chat("hello")
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    first, second = (line for line in lines if line.get("event") == "screening_failed")

    assert first["trace_id"] == CLIENT_TRACE
    assert first["request_id"].startswith("sha256:")
    assert "trace_id" not in second


def test_a_client_s_trace_reaches_the_engine_untouched_without_tracing(stack):
    """As any proxy would do it."""
    stack.http.headers["traceparent"] = TRACEPARENT
    stack.chat("hello")

    assert stack.vllm.headers[-1]["traceparent"] == TRACEPARENT


class Collector:
    """A small OTLP receiver on loopback."""

    def __init__(self):
        self.spans = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                found = ExportTraceServiceRequest.FromString(body)
                for resource in found.resource_spans:
                    for scope in resource.scope_spans:
                        collector.spans += scope.spans
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1/traces"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def test_spans_arrive_over_otlp(start_stack, tmp_path):
    """At a real receiver, by the settings, without the gateway being stopped."""
    collector = Collector()
    telemetry = open_telemetry(Settings(state_dir=tmp_path, otlp_endpoint=collector.url))
    stack = start_stack(telemetry=telemetry)
    stack.chat("about John")
    deadline = time.monotonic() + 60
    while len(collector.spans) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    telemetry.stop()
    collector.close()

    assert sorted(span.name for span in collector.spans) == [
        "lethegate.engine",
        "lethegate.request",
        "lethegate.screen",
        "lethegate.shield",
    ]


@pytest.mark.parametrize("listens", [True, False])
def test_nobody_waits_for_a_collector(start_stack, tmp_path, listens, caplog):
    """One that takes connections and never answers, and one that is not there."""
    caplog.set_level(logging.CRITICAL, "opentelemetry")
    with socket.create_server(("127.0.0.1", 0), backlog=64) as hole:
        port = hole.getsockname()[1]
        if not listens:
            hole.close()
        url = f"http://127.0.0.1:{port}/v1/traces"
        telemetry = open_telemetry(Settings(state_dir=tmp_path, otlp_endpoint=url))
        stack = start_stack(telemetry=telemetry)
        took = []
        ended = time.monotonic() + 1.5  # an export is under way by then
        while time.monotonic() < ended or len(took) < 10:
            begun = time.monotonic()
            assert stack.chat("about John").status_code == 200
            took.append(time.monotonic() - begun)
        begun = time.monotonic()
        telemetry.stop()
        stopped = time.monotonic() - begun

    assert median(took) < EXPORT_SECONDS / 4  # one may meet a machine that stands still
    assert stopped < 5 * EXPORT_SECONDS


def test_off_by_default(tmp_path):
    """No endpoint, no tracing; something that is no URL stops the start."""
    assert type(open_telemetry(Settings(state_dir=tmp_path))) is Telemetry
    with pytest.raises(ValidationError):
        Settings(state_dir=tmp_path, otlp_endpoint="collector:4318")
