"""Answers: what one streamed request says once it is over.

While load runs, only bytes and arrival times are kept; they are read afterwards, because the client
shares the processor with the servers that it measures.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from server.sse import DONE, EventSplitter, event_data


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request as it went over the wire; times are `time.perf_counter` seconds.

    Attributes:
        asked: how many tokens were asked for.
        sent: just before the request was sent.
        ended: when the response was complete, or the fault met.
        status: HTTP status; None if none arrived.
        pieces: arrival time and bytes of every piece of the body.
        fault: class of the error that ended it, or "".
    """

    asked: int
    sent: float
    ended: float
    status: int | None
    pieces: tuple[tuple[float, bytes], ...]
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """One request's outcome.

    Attributes:
        asked: how many tokens were asked for.
        arrivals: when each event with text arrived, in order.
        tokens: completion tokens, as the server counted them.
        finish_reason: of the only choice; None if none was told.
        failure: why this is no answer, or "".
        text: what was said.
    """

    asked: int
    sent: float
    ended: float
    arrivals: tuple[float, ...]
    tokens: int
    finish_reason: str | None
    failure: str
    text: str = ""

    @property
    def first_token_seconds(self) -> float:
        """From sending to the first text."""
        return self.arrivals[0] - self.sent

    @property
    def gaps(self) -> list[tuple[float, float]]:
        """Begin and end of the time between every two neighbouring events with text."""
        return list(zip(self.arrivals, self.arrivals[1:], strict=False))


def read_answer(exchange: Exchange) -> Answer:
    """Read an exchange; nothing that a server sends raises here, it becomes a `failure`."""
    reading = _Reading()
    if exchange.status == 200:
        for arrival, event in _events(exchange):
            reading.take(arrival, event)
    return Answer(
        asked=exchange.asked,
        sent=exchange.sent,
        ended=exchange.ended,
        arrivals=tuple(reading.arrivals),
        tokens=reading.tokens,
        finish_reason=reading.finish_reason,
        failure=_failure(exchange, reading),
        text="".join(reading.texts),
    )


class _Reading:
    """What the events so far have said."""

    def __init__(self) -> None:
        self.arrivals: list[float] = []
        self.texts: list[str] = []
        self.tokens = 0
        self.finish_reason: str | None = None
        self.is_done = False
        self.failure = ""

    def take(self, arrival: float, event: bytes) -> None:
        if event == DONE:
            self.is_done = True
            return
        try:
            self._take_chunk(arrival, json.loads(event_data(event) or b"{}"))
        except (ValueError, KeyError, TypeError, AttributeError):
            self.failure = self.failure or "unreadable event"

    def _take_chunk(self, arrival: float, chunk: dict[str, Any]) -> None:
        if "error" in chunk:
            self.failure = self.failure or "error event"
        for choice in chunk.get("choices", ()):
            if text := choice["delta"].get("content"):
                self.arrivals.append(arrival)
                self.texts.append(text)
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
        if usage := chunk.get("usage"):
            self.tokens = int(usage["completion_tokens"])


def _events(exchange: Exchange) -> Iterator[tuple[float, bytes]]:
    """Every event with the arrival of the piece that completed it."""
    splitter = EventSplitter()
    for arrival, piece in exchange.pieces:
        for event in splitter.feed(piece):
            yield arrival, event


def _failure(exchange: Exchange, reading: _Reading) -> str:
    if exchange.fault:
        return exchange.fault
    if exchange.status != 200:
        return f"status {exchange.status}"
    if reading.failure:
        return reading.failure
    if not reading.is_done or reading.finish_reason is None:
        return "unfinished stream"
    return "" if reading.arrivals and reading.tokens else "no text"
