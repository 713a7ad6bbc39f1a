"""What the gateway must know of an API: where its texts are, and how its answers are shaped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from server.choice_shield import ShieldPolicy
from server.conversation import Decode
from server.prefixes import Prefixes
from server.reply import Reply
from server.shielded_events import RecordBlock
from server.stream_form import StreamForm


class Refused(Protocol):
    """A refusal of one request, or an answer of which nothing may be shown."""

    def completion(self) -> dict[str, Any]:
        """The whole response."""

    def events(self) -> Iterator[bytes]:
        """The response as a stream."""


class ShieldedStream(Protocol):
    """A streamed answer behind the shield.

    `ended`: its last event is out. `cut_short`: it was not the engine that said so, and it may
    stop.
    """

    ended: bool
    cut_short: bool

    def feed(self, data: bytes) -> bytes:
        """Take bytes from the engine; the bytes that may go to the client."""

    def close(self) -> bytes:
        """The engine sends no more. An answer that has not ended ends here, with an error."""

    def abandon(self) -> bytes:
        """The shield itself failed: end the answer, showing nothing that is still held."""


class Api(Protocol):
    """One API."""

    @property
    def prompt_field(self) -> str:
        """The field that a refused prompt is in."""

    def texts(self, body: dict[str, Any], decode: Decode) -> list[str]:
        """The texts of a request body, none of them blank; the turns last, in reading order.

        So neighbouring turns are neighbours, and no list of tools stands behind the last one.

        Raises:
            InvalidRequest: the prompt has a form that cannot be read, so nobody may be shown it.
        """

    def prefixes(self, body: dict[str, Any], decode: Decode) -> Prefixes:
        """What of a valid body the answers are the continuation of."""

    def reject_unguardable(self, body: dict[str, Any], *, media: bool = False) -> None:
        """Refuse what cannot be guarded; `media` may pass, which are not read.

        Raises:
            UnsupportedFeature: naming the field.
        """

    def form(self, body: dict[str, Any]) -> StreamForm:
        """What the answer to the client's own body looks like."""

    def steered(self, body: dict[str, Any]) -> tuple[dict[str, Any], StreamForm]:
        """The body that the guard's parameters are added to, and what its answer looks like."""

    def refusal(
        self, body: dict[str, Any], text: str, model: str, request_id: str | None
    ) -> Refused:
        """A refusal of a client's body that says `text`."""

    def shield_stream(
        self, policy: ShieldPolicy, form: StreamForm, record_block: RecordBlock
    ) -> ShieldedStream:
        """The shield of a streamed answer."""

    def shield_whole(self, policy: ShieldPolicy, body: bytes, record_block: RecordBlock) -> Reply:
        """Shield a completed (200) answer; unchanged bytes if there is nothing to hide."""

    def error(self, reply: Reply) -> Reply:
        """An error of ours in this API's own shape."""
