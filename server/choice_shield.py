"""All surfaces of one choice behind shields, and how much of each may be shown so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from guard.ledger import CloseReason
from guard.nets import Catch, MakeNet, NetChain, Released
from server.prefixes import Prefixes
from server.surfaces import (
    BANNED_LOGPROB,
    LOGPROBS,
    TOKEN_IDS,
    Decode,
    Path,
    TokenText,
    drop_alternatives,
    logprob_tokens,
    written_texts,
)


@dataclass(frozen=True, slots=True)
class ShieldPolicy:
    """What one response is held against.

    Attributes:
        nets: what every surface runs through, in this order.
        decode: token ids to text.
        closed: the reason why the worker closed the request's slot; None if it did not.
        steered: the request carried parameters of ours, and the worker forbade tokens. Otherwise
            what the engine says is plain vLLM's, minus infinity included.
        prefixes: what the client wrote, of which the answers are the continuation.
        sent: the texts of the client's request.
    """

    nets: Sequence[MakeNet]
    decode: Decode
    closed: Callable[[], CloseReason | None] = lambda: None
    steered: bool = True
    prefixes: Prefixes = field(default_factory=Prefixes)
    sent: Callable[[], Sequence[str]] = tuple

    def chain(self, prefix: str = "") -> NetChain:
        """Fresh nets for one surface.

        An answer to a prefix is read behind it, and alone: that is how it is shown.
        """
        nets = []
        for make in self.nets:
            if prefix:
                nets.append(make())
                nets[-1].prime(prefix)
            nets.append(make())
        return NetChain(nets)

    def tells(self, error: str) -> bool:
        """Whether an error of the engine holds something that a net catches and nobody sent.

        If what the client itself sent were taken out, an error that quotes it would say whether it
        is registered.
        """
        return self._reveals(error) and not any(map(self._reveals, self.sent()))

    def _reveals(self, text: str) -> bool:
        return self.chain().reveals(text) is not None


@dataclass(slots=True)
class _Surface:
    """`vouched` characters are clear although the nets would wait for more."""

    nets: NetChain
    fed: int = 0
    cleared: int = 0
    vouched: int = 0

    @property
    def clear(self) -> int:
        """How many characters may be shown."""
        return max(self.cleared, self.vouched)


@dataclass(frozen=True, slots=True)
class Span:
    """Characters `start` <= i < `end` of one surface, counted from the choice's beginning."""

    path: Path
    start: int
    end: int


@dataclass(slots=True)
class ChoiceShield:
    """One choice. Once one surface blocks, all are closed: nothing more is taken or cleared.

    `prefix` is what the client wrote before it. `blocked_at` is that surface and `caught` what was
    found there.
    """

    policy: ShieldPolicy
    prefix: str = ""
    blocked_at: Path | None = None
    caught: Catch | None = None
    _surfaces: dict[Path, _Surface] = field(default_factory=dict)
    _tokens: dict[Path, TokenText] = field(default_factory=dict)

    def feed(self, choice: Mapping[str, Any]) -> list[Span]:
        """Take a choice or a delta of one; returns which spans of which surfaces it holds.

        A finish reason means that nothing follows.
        """
        spans = [self.feed_text(path, text) for path, text in self._texts(choice)]
        if choice.get("finish_reason") is not None:
            self._finish(choice.get("stop_reason"))
        return spans

    def finish(self) -> None:
        """The choice ended without saying so."""
        self._finish(None)

    def finish_surface(self, path: Path) -> None:
        """Nothing follows on this surface, while the choice goes on."""
        if self.blocked_at is None and path in self._surfaces:
            self._clear(path, self._surfaces[path].nets.finish())

    def is_clear(self, span: Span) -> bool:
        """Whether all of a span may be shown."""
        return span.end <= self._surfaces[span.path].clear

    def cleared_of(self, span: Span) -> int:
        """How many of a span's characters may be shown."""
        return min(span.end, max(span.start, self._surfaces[span.path].clear)) - span.start

    def kept(self, spans: list[Span], texts: Mapping[Path, str]) -> dict[Path, str]:
        """What may be shown of each text of one event."""
        return {
            span.path: texts[span.path][: max(0, self._surfaces[span.path].clear - span.start)]
            for span in spans
            if span.path in texts
        }

    def hide_alternatives(self, choice: dict[str, Any]) -> bool:
        """Drop forbidden tokens from `top_logprobs`, in place; whether there were any."""
        banned = BANNED_LOGPROB if self.policy.steered else -math.inf
        nets = self.policy.chain()

        def is_unwanted(token: str, logprob: float) -> bool:
            text = TokenText(self.policy.decode).feed_tokens([token])
            return logprob <= banned or nets.reveals(text) is not None

        return drop_alternatives(choice, is_unwanted)

    def _texts(self, choice: Mapping[str, Any]) -> list[tuple[Path, str]]:
        found = written_texts(choice)
        if tokens := logprob_tokens(choice):
            found.append((LOGPROBS, self._token_text(LOGPROBS).feed_tokens(tokens)))
        if token_ids := choice.get("token_ids"):
            found.append((TOKEN_IDS, self._token_text(TOKEN_IDS).feed(token_ids)))
        return found

    def _token_text(self, path: Path) -> TokenText:
        return self._tokens.setdefault(path, TokenText(self.policy.decode))

    def _surface(self, path: Path) -> _Surface:
        if path not in self._surfaces:
            self._surfaces[path] = _Surface(self.policy.chain(self.prefix))
        return self._surfaces[path]

    def feed_text(self, path: Path, text: str) -> Span:
        """Take more of one surface that goes on; returns which span of it that is."""
        if path[-1] == "arguments" and "tool_calls" in path and text:
            self._clear_name(path[: path.index("tool_calls") + 2])
        surface = self._surface(path)
        span = Span(path, surface.fed, surface.fed + len(text))
        surface.fed = span.end
        if self.blocked_at is None:
            self._clear(path, surface.nets.feed(text))
        return span

    def _clear_name(self, call: Path) -> None:
        """When a call's arguments begin, what names it is whole and need not wait for their end."""
        for path in ((*call, "id"), (*call, "function", "name")):
            surface = self._surfaces.get(path)
            if surface is None or self.blocked_at is not None or surface.clear >= surface.fed:
                continue
            if surface.nets.reveals("") is None:
                surface.vouched = surface.fed

    def _finish(self, stop_reason: Any) -> None:
        endings = self._endings(stop_reason)
        for path, surface in self._surfaces.items():
            if self.blocked_at is not None:
                return
            for ending in endings if path not in (LOGPROBS, TOKEN_IDS) else ():
                caught = surface.nets.reveals(ending)
                if caught is not None:
                    surface.nets.close(caught)
                    self._block(path, caught)
                    return
            self._clear(path, surface.nets.finish())

    def _clear(self, path: Path, released: Released) -> None:
        self._surfaces[path].cleared += len(released.text)
        if released.caught is not None:
            self._block(path, released.caught)

    def _endings(self, stop_reason: Any) -> list[str]:
        """The text that a stop string or token cut off; of a tuple each one may have been it."""
        reasons = stop_reason if isinstance(stop_reason, tuple) else (stop_reason,)
        texts = [self.policy.decode([r]) if type(r) is int else r for r in reasons]
        return [text for text in texts if isinstance(text, str) and text]

    def _block(self, path: Path, caught: Catch) -> None:
        self.blocked_at, self.caught = path, caught
        for other, surface in self._surfaces.items():
            if other != path:
                surface.cleared += len(surface.nets.finish().text)
