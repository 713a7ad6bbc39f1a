"""A streamed response behind the shield: incomplete for `content_filter` if something is caught."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from server.apis.cuts import allowed, shown_to_the_end
from server.apis.ordered_stream import Event, Held, OrderedStream
from server.apis.response_output import ShownOutput
from server.apis.response_surfaces import DELTAS, ResponseSurfaces, paths_of, slot_of
from server.choice_shield import ShieldPolicy
from server.shielded_events import FAILED, RecordBlock
from server.sse import encode_named_event
from server.stream_form import StreamForm

FILTERED: dict[str, Any] = {
    "status": "incomplete",
    "incomplete_details": {"reason": "content_filter"},
}
COMPLETED = "response.completed"
INCOMPLETE = "response.incomplete"
_BEGINNINGS = ("response.created", "response.in_progress")


class ResponseStream(OrderedStream):
    """Shield of one streamed response."""

    def __init__(self, policy: ShieldPolicy, form: StreamForm, record_block: RecordBlock) -> None:
        super().__init__(policy, form, record_block)
        self._surfaces = ResponseSurfaces(self._shield)
        self._output = ShownOutput()
        self._response: dict[str, Any] | None = None
        self._usage: Any = None
        self._num_sent = 0

    def _judge(self, raw: bytes, event: Event) -> Held:
        self._surfaces.hid_alternatives = False
        spans = []
        if self._is_last(event):
            response = event["response"]
            for index, item in enumerate(response["output"]):
                spans += self._surfaces.item(index, item, whole=True)
            self._shield.feed({"finish_reason": "end", "stop_reason": self._endings(response)})
            if self._policy.closed() is not None:
                event = {**event, "type": INCOMPLETE, "response": {**response, **FILTERED}}
                return Held(encode_named_event(event), event, spans)
        elif event["type"] not in _BEGINNINGS:
            spans = self._surfaces.take(event)
        elif event["response"]["output"]:
            raise ValueError("a response that begins with output")
        if self._surfaces.hid_alternatives:
            raw = encode_named_event(event)
        return Held(raw, event, spans)

    def _endings(self, response: dict[str, Any]) -> tuple[str | int, ...]:
        """What may have cut the answer off; one that met its limit was cut by nothing else."""
        return self._policy.prefixes.endings if response["status"] == "completed" else ()

    def _note(self, event: Event) -> None:
        if self._is_last(event):
            self._usage = event["response"].get("usage")

    def _is_delta(self, event: Event) -> bool:
        return event["type"] in DELTAS

    def _is_last(self, event: Event) -> bool:
        return event["type"] in (COMPLETED, INCOMPLETE)

    def _sent(self, held: Held) -> bytes:
        event = held.event
        self._num_sent = event["sequence_number"] + 1
        self._output.take(event)
        if event["type"] in _BEGINNINGS:
            self._response = event["response"]
        self.ended = self._is_last(event)
        return held.raw

    def _cut(self, first: Event) -> Iterator[bytes]:
        """The last delta: what is allowed of the held ones of the part that goes on here."""
        if not self._is_delta(first):
            return
        slot, kept = slot_of(first, DELTAS[first["type"]]), ""
        for held in self._held:
            kind = DELTAS.get(held.event["type"])
            if kind is None or slot_of(held.event, kind) != slot:
                break
            kept += (more := allowed(self._shield, held.spans, held.event["delta"]))
            if len(more) < len(held.event["delta"]):
                break
        before = self._output.before(paths_of(slot))
        if kept := shown_to_the_end(self._policy, before, kept):
            tokens: dict[str, Any] = {"logprobs": []} if "logprobs" in first else {}
            yield self._add({**first, "delta": kept, **tokens})

    def _close_open(self) -> Iterator[bytes]:
        for event in self._output.close():
            yield self._numbered(event)

    def _end(self) -> Iterator[bytes]:
        if self._response is None:
            yield self._error(FAILED)
            return
        yield from self._close_open()
        output = {"output": self._output.items, "usage": self._usage}
        response = {**self._response, **output, **FILTERED}
        yield self._numbered({"type": INCOMPLETE, "response": response})

    def _stop(self) -> Iterator[bytes]:
        # The engine has no event for its errors: it breaks off.
        if self._shield.blocked_at is None and self._fault_is_ours():
            yield from self._end_filtered()
        else:
            yield from super()._stop()

    def _error(self, message: str) -> bytes:
        return self._numbered(
            {"type": "error", "code": "server_error", "message": message, "param": None}
        )

    def _add(self, event: Event) -> bytes:
        self._output.take(event)
        return self._numbered(event)

    def _numbered(self, event: Event) -> bytes:
        """An event of ours, numbered behind those that were sent."""
        self._num_sent += 1
        return encode_named_event({**event, "sequence_number": self._num_sent - 1})
