"""Traces: spans of each request around vLLM's own, sent as OTLP over HTTP (OpenTelemetry).

    lethegate.request                what a client asked; its parent is the client's span, if any
    ├─ lethegate.screen              reading the conversation, and the decision
    ├─ lethegate.engine              vLLM's app; `traceparent` makes vLLM's own span its child
    └─ lethegate.shield              the same time, where the answer is looked through

Attributes are ids, counts and closed words: never a text, nor a target's id. A thread exports the
spans; those that find its queue full are dropped, so nobody waits for the collector. Without an
endpoint nothing of OpenTelemetry is loaded.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import version
from typing import TYPE_CHECKING

from starlette.types import Message, Scope, Send

from guard.decision import Decision
from server.endpoints import route_of
from server.log import bound_request
from server.provenance.audit import recorded_id
from server.request_body import header
from server.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.trace import Span

# A collector that does not answer within this time loses spans.
EXPORT_SECONDS = 2.0
_EXPORT_EVERY_SECONDS = 1.0
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_HEADERS = (b"traceparent", b"tracestate")

Value = str | int | float | bool


class Trace:
    """A span of one request, and what happens within it; this one keeps nothing."""

    def note(self, **values: Value) -> None:
        """Add attributes, named without our prefix, unless the span has ended."""

    @contextmanager
    def step(self, name: str, **values: Value) -> Iterator[Trace]:
        """A span for a part of it."""
        yield self

    @contextmanager
    def to_engine(self, scope: Scope) -> Iterator[Scope]:
        """A span for the inner app; gives the scope that tells the app of it."""
        yield scope

    def decided(self, decision: Decision) -> None:
        """Note what was decided."""
        self.note(
            verdict=decision.verdict.value,
            generation=decision.generation,
            digest=decision.digest,
            detections=len(decision.detections),
            observed=len(decision.observed),
        )


_UNTRACED = Trace()
_CURRENT: ContextVar[Trace] = ContextVar("lethegate_trace", default=_UNTRACED)


def current_trace() -> Trace:
    """The span of the request that this task serves."""
    return _CURRENT.get()


class Telemetry:
    """Where traces begin; this one makes none. Puts a request's ids on its log lines."""

    @contextmanager
    def request(self, scope: Scope, send: Send) -> Iterator[Send]:
        """Trace a request; gives the `send` to answer it with."""
        found = _TRACEPARENT.fullmatch(header(scope, b"traceparent") or "")
        with bound_request(_request_id(scope), None if found is None else found[1]):
            yield send


class OpenTelemetry(Telemetry):
    """Makes spans and hands them to a processor."""

    def __init__(self, processor: SpanProcessor) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider

        about = {"service.name": "lethegate", "service.version": version("lethegate")}
        # Not the process's own provider: that is vLLM's.
        self._provider = TracerProvider(resource=Resource.create(about))
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("lethegate")

    @contextmanager
    def request(self, scope: Scope, send: Send) -> Iterator[Send]:
        """Trace a request; gives the `send` to answer it with."""
        from opentelemetry.trace import SpanKind, set_span_in_context

        begun = self._tracer.start_span(
            "lethegate.request", _parent(scope), SpanKind.SERVER, _about(scope)
        )
        token = _CURRENT.set(_SpanTrace(begun, set_span_in_context(begun), self))

        async def noting_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                begun.set_attribute("http.response.status_code", message["status"])
            await send(message)

        trace_id = format(begun.get_span_context().trace_id, "032x")
        try:
            with bound_request(_request_id(scope), trace_id):
                yield noting_send
        finally:
            _CURRENT.reset(token)
            begun.end()

    @contextmanager
    def span(self, name: str, context: Context, **values: Value) -> Iterator[Span]:
        """A span inside another; what is raised through it is not recorded: it may quote a text."""
        span = self._tracer.start_span(f"lethegate.{name}", context, attributes=_named(values))
        try:
            yield span
        finally:
            span.end()

    def stop(self) -> None:
        """Export what waits, for as long as one export may take; what is left then is lost."""
        # Its own bound is 30 s, as each of many exports may take its time.
        ending = threading.Thread(target=self._provider.shutdown, name="spans", daemon=True)
        ending.start()
        ending.join(EXPORT_SECONDS)


class _SpanTrace(Trace):
    """The same, with a real span."""

    def __init__(self, span: Span, context: Context, telemetry: OpenTelemetry) -> None:
        self._span, self._context, self._telemetry = span, context, telemetry

    def note(self, **values: Value) -> None:
        if self._span.is_recording():
            self._span.set_attributes(_named(values))

    @contextmanager
    def step(self, name: str, **values: Value) -> Iterator[Trace]:
        with self._telemetry.span(name, self._context, **values) as span:
            yield _SpanTrace(span, self._context, self._telemetry)

    @contextmanager
    def to_engine(self, scope: Scope) -> Iterator[Scope]:
        from opentelemetry.trace import set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        with self._telemetry.span("engine", self._context) as span:
            carrier: dict[str, str] = {}
            TraceContextTextMapPropagator().inject(carrier, set_span_in_context(span))
            kept = [(name, value) for name, value in scope["headers"] if name not in _HEADERS]
            told = [(name.encode(), value.encode()) for name, value in carrier.items()]
            yield {**scope, "headers": [*kept, *told]}


def open_telemetry(settings: Settings) -> Telemetry:
    """What the settings ask for."""
    if settings.otlp_endpoint is None:
        return Telemetry()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    exporter = OTLPSpanExporter(endpoint=settings.otlp_endpoint, timeout=EXPORT_SECONDS)
    return OpenTelemetry(
        BatchSpanProcessor(
            exporter,
            schedule_delay_millis=1000 * _EXPORT_EVERY_SECONDS,
            export_timeout_millis=1000 * EXPORT_SECONDS,
        )
    )


def _about(scope: Scope) -> dict[str, Value]:
    return {
        "http.request.method": scope["method"],
        "http.route": route_of(scope),
        "lethegate.request_id": _request_id(scope) or "",
    }


def _request_id(scope: Scope) -> str | None:
    given = header(scope, b"x-request-id")
    return None if given is None else recorded_id(given)


def _parent(scope: Scope) -> Context:
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {name.decode(): header(scope, name) or "" for name in _HEADERS}
    return TraceContextTextMapPropagator().extract(carrier, Context())


def _named(values: dict[str, Value]) -> dict[str, Value]:
    return {f"lethegate.{name}": value for name, value in values.items()}
