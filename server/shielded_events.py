"""What every shield of a stream of events has in common: bytes in, bytes out, and how it ended."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

from guard.nets import Catch
from server.choice_shield import ShieldPolicy
from server.sse import EventSplitter
from server.stream_form import StreamForm

# All that is told of an error which may not be.
FAILED = "The request failed."
STOPPED = "The engine stopped before the end."

# The surface where an answer was ended, and for what; None where the shield itself failed.
RecordBlock = Callable[[str, Catch | None], None]


class ShieldedEvents(ABC):
    """A stream cut into events.

    `ended`: its last event is out. `cut_short`: it was not the engine that said so, and it may
    stop.
    """

    def __init__(self, policy: ShieldPolicy, form: StreamForm, record_block: RecordBlock) -> None:
        self._policy = policy
        self._form = form
        self._record_block = record_block
        self._splitter = EventSplitter()
        self.ended = False
        self.cut_short = False

    def feed(self, data: bytes) -> bytes:
        """Take bytes from the engine; the bytes that may go to the client."""
        return b"".join(
            out
            for event in self._splitter.feed(data)
            if not self.ended
            for out in self._take(event)
        )

    def close(self) -> bytes:
        """The engine sends no more. An answer that has not ended ends here, with an error."""
        return b"" if self.ended else b"".join(self._stop())

    def abandon(self) -> bytes:
        """The shield itself failed: end the answer, showing nothing that is still held."""
        if self.ended:
            return b""
        self._record_block("other", None)
        return b"".join(self._end_filtered())

    @abstractmethod
    def _take(self, event: bytes) -> Iterator[bytes]:
        """One event, with the blank line that ends it."""

    @abstractmethod
    def _stop(self) -> Iterator[bytes]:
        """The end of an answer that the engine left open; sets `ended`."""

    @abstractmethod
    def _end_filtered(self) -> Iterator[bytes]:
        """The end of an answer of which nothing more may be shown; sets `ended`."""

    def _fault_is_ours(self) -> bool:
        """Whether an error of the engine means that the worker forced an end of text.

        That violates a grammar, and the engine calls it its own fault.
        """
        return self._form.structured or self._policy.closed() is not None
