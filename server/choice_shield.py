"""All surfaces of one choice behind shields, and how much of each may be shown so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from guard.ledger import CloseReason
from guard.phrase_matcher import PhraseMatchers
from guard.shield import DEFAULT_HOLDBACK_CHARS, OutputShield
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
    """What one steered request's response is held against.

    Attributes:
        matchers: the active phrases.
        decode: token ids to text.
        closed: the reason why the worker closed the request's slot; None if it did not.
        holdback_chars: the bound of every hold-back window.
    """

    matchers: PhraseMatchers
    decode: Decode
    closed: Callable[[], CloseReason | None] = lambda: None
    holdback_chars: int = DEFAULT_HOLDBACK_CHARS

    def reveals(self, text: str) -> bool:
        """Whether a whole text holds a phrase."""
        return OutputShield(self.matchers, self.holdback_chars).reveals(text)


@dataclass(slots=True)
class _Surface:
    shield: OutputShield
    fed: int = 0
    cleared: int = 0


@dataclass(frozen=True, slots=True)
class Span:
    """Characters `start` <= i < `end` of one surface, counted from the choice's beginning."""

    path: Path
    start: int
    end: int


@dataclass(slots=True)
class ChoiceShield:
    """One choice. Once one surface blocks, all are closed: nothing more is taken or cleared."""

    policy: ShieldPolicy
    blocked_at: Path | None = None
    _surfaces: dict[Path, _Surface] = field(default_factory=dict)
    _tokens: dict[Path, TokenText] = field(default_factory=dict)

    def feed(self, choice: Mapping[str, Any]) -> list[Span]:
        """Take a choice or a delta of one; returns which spans of which surfaces it holds.

        A finish reason means that nothing follows.
        """
        spans = [self._feed(path, text) for path, text in self._texts(choice)]
        if choice.get("finish_reason") is not None:
            self._finish(choice.get("stop_reason"))
        return spans

    def finish(self) -> None:
        """The choice ended without saying so."""
        self._finish(None)

    def is_clear(self, span: Span) -> bool:
        """Whether all of a span may be shown."""
        return span.end <= self._surfaces[span.path].cleared

    def kept(self, spans: list[Span], texts: Mapping[Path, str]) -> dict[Path, str]:
        """What may be shown of each text of one event."""
        return {
            span.path: texts[span.path][: max(0, self._surfaces[span.path].cleared - span.start)]
            for span in spans
            if span.path in texts
        }

    def hide_alternatives(self, choice: dict[str, Any]) -> bool:
        """Drop forbidden tokens from `top_logprobs`, in place; whether there were any."""
        return drop_alternatives(
            choice, lambda token, p: p <= BANNED_LOGPROB or self.policy.reveals(token)
        )

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
            shield = OutputShield(self.policy.matchers, self.policy.holdback_chars)
            self._surfaces[path] = _Surface(shield)
        return self._surfaces[path]

    def _feed(self, path: Path, text: str) -> Span:
        surface = self._surface(path)
        span = Span(path, surface.fed, surface.fed + len(text))
        surface.fed = span.end
        if self.blocked_at is None:
            released = surface.shield.feed(text)
            surface.cleared += len(released.text)
            if released.blocked:
                self._block(path)
        return span

    def _finish(self, stop_reason: Any) -> None:
        ending = self._ending(stop_reason)
        for path, surface in self._surfaces.items():
            if self.blocked_at is not None:
                return
            if ending and path not in (LOGPROBS, TOKEN_IDS) and surface.shield.reveals(ending):
                surface.shield.blocked = True
                self._block(path)
                return
            released = surface.shield.finish()
            surface.cleared += len(released.text)
            if released.blocked:
                self._block(path)

    def _ending(self, stop_reason: Any) -> str:
        """The text that a stop string or token cut off."""
        if isinstance(stop_reason, str):
            return stop_reason
        return self.policy.decode([stop_reason]) if type(stop_reason) is int else ""

    def _block(self, path: Path) -> None:
        self.blocked_at = path
        for other, surface in self._surfaces.items():
            if other != path:
                surface.cleared += len(surface.shield.finish().text)
