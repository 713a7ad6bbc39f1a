"""How much a key may ask for, and the buckets that hold it to that.

Requests and tokens per minute are buckets that hold a minute's worth and empty steadily: a key
that was idle may spend a minute's worth at once, and over any time t at most limit * (1 + t / 60).
A request takes one; of tokens it reserves what it may need (its body's bytes / 4 for the prompt,
and `max_tokens` for each answer), which is put right by the answer's own count when it ends.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import ceil, floor
from time import monotonic
from typing import Any, Self

from server.errors import ConcurrencyLimited, RateLimited, RequestsLimited, TokensLimited
from server.keys.counters import Counters, Entry
from server.lenient import integer

MINUTE = 60.0
# Reserved for an answer whose length the client leaves open.
OPEN_ANSWER_TOKENS = 1024
BYTES_PER_TOKEN = 4
_USE_SECONDS = 60.0
_MAX_ANSWERS = 65_536
_LENGTHS = ("max_tokens", "max_completion_tokens", "max_output_tokens")


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a key; None: none, or where it stands for a setting, the setting."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None
    max_body_bytes: int | None = None

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """From the JSON that keys are stored and published with."""
        return cls(**{name: document.get(name) for name in cls.__dataclass_fields__})

    def over(self, defaults: Limits) -> Limits:
        """These, and the defaults where there are none."""
        names = self.__dataclass_fields__
        own = {name: getattr(self, name) for name in names}
        return Limits(
            **{n: getattr(defaults, n) if value is None else value for n, value in own.items()}
        )


NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Standing:
    """What is left of one bucket: of `limit`, and in how many seconds it is full again."""

    limit: int
    remaining: int
    reset_seconds: float


class Limiter:
    """Holds the keys to their limits; one per gateway process, on counters that all share."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._used: dict[str, float] = {}

    def enter(self, key_id: str, limits: Limits, *, anthropic: bool) -> Admission:
        """Let a request in, or refuse it; what is let in must `leave`.

        `anthropic`: its clients are told of their limits in other words than OpenAI's.

        Raises:
            RequestsLimited: too many requests in this minute.
            ConcurrencyLimited: too many requests under way.
        """
        admission = Admission(self._counters, key_id, limits, anthropic)
        limited = limits.requests_per_minute or limits.concurrent_requests
        if limited or limits.tokens_per_minute or self._is_news(key_id):
            admission.begin()
        return admission

    def _is_news(self, key_id: str) -> bool:
        """Whether the last use that is written down is so old that it is worth a new one."""
        now = monotonic()
        if now - self._used.get(key_id, -_USE_SECONDS) < _USE_SECONDS:
            return False
        if len(self._used) > 65_536:
            self._used.clear()
        self._used[key_id] = now
        return True


class Admission:
    """One request that is under way."""

    def __init__(self, counters: Counters, key_id: str, limits: Limits, anthropic: bool) -> None:
        self._counters, self._key_id, self._limits = counters, key_id, limits
        self._render = _anthropic_headers if anthropic else _openai_headers
        self._begun = False
        self._reserved = 0
        self._standings: dict[str, Standing] = {}

    def begin(self) -> None:
        """Take a request from the bucket and count it as under way.

        Raises:
            RequestsLimited, ConcurrencyLimited: see `Limiter.enter`.
        """
        most, limit = self._limits.concurrent_requests, self._limits.requests_per_minute
        with self._counters.entry(self._key_id) as (entry, place):
            # Asked before the wait for the lock, it could lie before another process's last time.
            _drain(entry, self._limits, monotonic())
            if limit is not None and entry.requests + 1 > limit:
                wait = (entry.requests + 1 - limit) * MINUTE / limit
                raise self._refuse(RequestsLimited, f"{limit} requests a minute", wait, entry)
            if most is not None and self._counters.under_way(place, most) >= most:
                raise self._refuse(ConcurrencyLimited, f"{most} requests at once", 1.0, entry)
            entry.requests += 1 if limit is not None else 0
            entry.used_at = time.time()
            self._counters.begin(place)
            self._begun = True
            self._stand(entry)

    def reserve(self, num_bytes: int, body: Mapping[str, Any]) -> None:
        """Reserve the tokens that a request may need.

        Raises:
            TokensLimited: there are not so many left, or never are.
        """
        limit = self._limits.tokens_per_minute
        if limit is None:
            return
        wanted = asked_tokens(num_bytes, body, limit)
        with self._counters.entry(self._key_id) as (entry, _):
            _drain(entry, self._limits, monotonic())
            what = f"{limit} tokens a minute"
            if wanted > limit:
                raise self._refuse(
                    TokensLimited, f"{what}, and this request may need {wanted}", None, entry
                )
            if entry.tokens + wanted > limit:
                wait = (entry.tokens + wanted - limit) * MINUTE / limit
                raise self._refuse(TokensLimited, what, wait, entry)
            entry.tokens += wanted
            self._reserved = wanted
            self._stand(entry)

    def leave(self, spent: int | None) -> None:
        """The request has ended; `spent` tokens, None where nobody knows."""
        if not self._begun:
            return
        with self._counters.entry(self._key_id) as (entry, place):
            self._counters.end(place)
            if self._limits.tokens_per_minute is not None and spent is not None:
                _drain(entry, self._limits, monotonic())
                entry.tokens = max(0.0, entry.tokens + spent - self._reserved)

    @property
    def counts_tokens(self) -> bool:
        """Whether the answer's tokens matter."""
        return self._limits.tokens_per_minute is not None

    def headers(self) -> dict[str, str]:
        """What clients are told of their limits."""
        found: dict[str, str] = {}
        for kind, standing in self._standings.items():
            found |= self._render(kind, standing)
        return found

    def _stand(self, entry: Entry) -> None:
        found = {
            "requests": (self._limits.requests_per_minute, entry.requests),
            "tokens": (self._limits.tokens_per_minute, entry.tokens),
        }
        self._standings = {
            kind: Standing(limit, max(0, floor(limit - spent)), spent * MINUTE / limit)
            for kind, (limit, spent) in found.items()
            if limit is not None
        }

    def _refuse(
        self, kind: type[RateLimited], what: str, wait: float | None, entry: Entry
    ) -> RateLimited:
        self._stand(entry)
        seconds = None if wait is None else max(1, ceil(wait))
        error = kind(f"Rate limit reached: this key has {what}.", retry_after_seconds=seconds)
        error.headers = self.headers()
        return error


def asked_tokens(num_bytes: int, body: Mapping[str, Any], limit: int) -> int:
    """Tokens that a request may need: its prompts, and every answer at its longest.

    Where the client leaves the length open, what the limit has room for, at most 1,024 an answer.
    """
    prompt = ceil(num_bytes / BYTES_PER_TOKEN)
    given = (_whole(body.get(name)) for name in _LENGTHS)
    longest = max((length for length in given if length is not None), default=None)
    answers = min(_MAX_ANSWERS, max(1, _whole(body.get("n")) or 1) * _prompts(body))
    if longest is not None:
        return prompt + longest * answers
    return prompt + min(OPEN_ANSWER_TOKENS * answers, max(0, limit - prompt))


def _whole(value: Any) -> int | None:
    number = integer(value)
    return number if number is not None and number >= 0 else None


def _prompts(body: Mapping[str, Any]) -> int:
    """Prompts in one request: a batch of conversations, or of completions' prompts."""
    for field, one in (("messages", list), ("prompt", str | list)):
        several = body.get(field)
        if isinstance(several, list) and several and isinstance(several[0], one):
            return len(several)
    return 1


def _drain(entry: Entry, limits: Limits, now: float) -> None:
    """Let the buckets empty by the time that has gone by; after a reboot they are empty."""
    for kind, limit in (
        ("requests", limits.requests_per_minute),
        ("tokens", limits.tokens_per_minute),
    ):
        spent, at = getattr(entry, kind), getattr(entry, f"{kind}_at")
        gone = (now - at) * (limit or 0) / MINUTE if now >= at else spent
        setattr(entry, kind, max(0.0, spent - gone) if limit is not None else 0.0)
        setattr(entry, f"{kind}_at", now)


def _openai_headers(kind: str, standing: Standing) -> dict[str, str]:
    return {
        f"x-ratelimit-limit-{kind}": str(standing.limit),
        f"x-ratelimit-remaining-{kind}": str(standing.remaining),
        f"x-ratelimit-reset-{kind}": _duration(standing.reset_seconds),
    }


def _anthropic_headers(kind: str, standing: Standing) -> dict[str, str]:
    full = datetime.now(UTC) + timedelta(seconds=standing.reset_seconds)
    return {
        f"anthropic-ratelimit-{kind}-limit": str(standing.limit),
        f"anthropic-ratelimit-{kind}-remaining": str(standing.remaining),
        f"anthropic-ratelimit-{kind}-reset": full.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def _duration(seconds: float) -> str:
    """As OpenAI writes it: `20ms`, `1.5s`, `6m0s`."""
    if seconds < 1:
        return f"{ceil(seconds * 1000)}ms"
    minutes, rest = divmod(round(seconds, 3), MINUTE)
    return (
        f"{int(minutes)}m{ceil(rest)}s" if minutes else f"{rest:.3f}".rstrip("0").rstrip(".") + "s"
    )
