"""A streamed answer that is one sequence of events, behind the shield.

Events go out unchanged and in order, as soon as all text in them is clear. When something is caught
the held ones are shown up to it, what is open is closed, and the answer ends. Its usage is known
only from the engine's last event, which is waited for. What the events of an API say is its own
business; an event that it does not know cannot be judged and raises.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from server.choice_shield import ChoiceShield, ShieldPolicy, Span
from server.shielded_events import FAILED, STOPPED, RecordBlock, ShieldedEvents
from server.sse import event_data
from server.stream_form import StreamForm
from server.surfaces import metric_label

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Held:
    """An event that waits until its spans are clear."""

    raw: bytes
    event: Event
    spans: list[Span]


class OrderedStream(ShieldedEvents):
    """Shield of one answer with one choice."""

    def __init__(self, policy: ShieldPolicy, form: StreamForm, record_block: RecordBlock) -> None:
        super().__init__(policy, form, record_block)
        self._shield = ChoiceShield(policy, policy.prefixes.of(0))
        self._held: deque[Held] = deque()

    @abstractmethod
    def _judge(self, raw: bytes, event: Event) -> Held:
        """Feed the texts of an event to the shield.

        Raises:
            ValueError: its kind is unknown, or it is out of place.
        """

    @abstractmethod
    def _note(self, event: Event) -> None:
        """Remember what an event tells beside its texts, shown or not."""

    @abstractmethod
    def _is_delta(self, event: Event) -> bool:
        """Whether an event says more of a text."""

    @abstractmethod
    def _is_last(self, event: Event) -> bool:
        """Whether nothing but the answer's end follows the texts."""

    @abstractmethod
    def _sent(self, held: Held) -> bytes:
        """An event goes out; sets `ended` if it is the last."""

    @abstractmethod
    def _cut(self, first: Event) -> Iterator[bytes]:
        """What is clear of the text that the first of the held events says more of, if any."""

    @abstractmethod
    def _close_open(self) -> Iterator[bytes]:
        """The end of what was begun."""

    @abstractmethod
    def _end(self) -> Iterator[bytes]:
        """The last events of an answer that the shield ends."""

    @abstractmethod
    def _error(self, message: str) -> bytes:
        """An error as an event."""

    def _take(self, raw: bytes) -> Iterator[bytes]:
        data = event_data(raw)
        if data is None:
            return
        event = json.loads(data)
        if event["type"] == "error":
            yield from self._take_error()
            return
        self._note(event)
        if self._shield.blocked_at is None:
            self._held.append(self._judge(raw, event))
            yield from self._release()
        if self._shield.blocked_at is not None and self._is_last(event):
            yield from self._end_filtered()

    def _take_error(self) -> Iterator[bytes]:
        if self._fault_is_ours():
            yield from self._end_filtered()
            return
        self.ended = True
        # In a stream the engine tells faults of its own only.
        yield self._error(FAILED)

    def _release(self) -> Iterator[bytes]:
        """The events that are clear; after a catch, also what is clear of the next one."""
        for _ in range(self._num_clear()):
            yield self._sent(self._held.popleft())
        if self._shield.blocked_at is None:
            return
        self._record_block(metric_label(self._shield.blocked_at), self._shield.caught)
        if self._held:
            yield from self._cut(self._held[0].event)
        self._held.clear()
        yield from self._close_open()

    def _num_clear(self) -> int:
        """How many of the held events may go out as they are.

        After a catch the last deltas of those that are clear may not: with them a text ends, and
        that may make a phrase of what was the beginning of a longer word.
        """
        blocked, count = self._shield.blocked_at is not None, 0
        for held in self._held:
            if not all(map(self._shield.is_clear, held.spans)):
                break
            if blocked and self._is_last(held.event):
                break
            count += 1
        while blocked and count and self._is_delta(self._held[count - 1].event):
            count -= 1
        return count

    def _stop(self) -> Iterator[bytes]:
        if self._shield.blocked_at is None:
            self._shield.finish()
            yield from self._release()
        if self._shield.blocked_at is not None:
            yield from self._end_filtered()
            return
        self.ended = True
        yield self._error(STOPPED)

    def _end_filtered(self) -> Iterator[bytes]:
        self._held.clear()
        self.ended = self.cut_short = True
        yield from self._end()
