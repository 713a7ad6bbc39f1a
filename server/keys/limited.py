"""One request on its way through the gateway, held to the limits of its key."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from starlette.types import Message, Send

from server.auth import Caller
from server.endpoints import Endpoint, Handling
from server.errors import ConcurrencyLimited, RateLimited, TokensLimited
from server.keys.limits import BYTES_PER_TOKEN, Admission, Limiter, Limits
from server.keys.meter import Meter
from server.metrics.gateway import GatewayMetrics
from server.metrics.labels import Limit
from server.settings import Settings


class LimitedRequest:
    """What the gateway needs while it serves the request; `send` is to be used for its answer.

    It has ended when the last byte of its answer goes out: a client that has read that may ask
    again at once, and another process then looks whether it may. `goes_on`: in the background, when
    the client has its answer; `leave` then ends it.
    """

    def __init__(self, admission: Admission | None, send: Send, max_body_bytes: int) -> None:
        self._admission, self._socket = admission, send
        self._client: Send = self._send_out
        self.max_body_bytes = max_body_bytes
        self.goes_on = False
        self._meter: Meter | None = None
        self._prompt_tokens = 0

    def reserve(self, num_bytes: int, body: Mapping[str, Any]) -> None:
        """Reserve the tokens of a body that was read.

        Raises:
            TokensLimited: there are not so many left, or never are.
        """
        if self._admission is None:
            return
        self._prompt_tokens = num_bytes // BYTES_PER_TOKEN
        self._client = self.metered(self._client)
        self._admission.reserve(num_bytes, body)

    def metered(self, send: Send) -> Send:
        """A `send` whose answer is what the request costs."""
        if self._admission is None or not self._admission.counts_tokens:
            return send
        self._meter = Meter(send, self._prompt_tokens)
        return self._meter.send

    def leave(self, *, failed: bool = False) -> None:
        """The request has ended; only the first time counts."""
        admission, self._admission = self._admission, None
        if admission is not None:
            admission.leave(self.spent(failed=failed))

    def spent(self, *, failed: bool) -> int | None:
        """Tokens that the request has cost; None where nobody can tell."""
        tokens = None if self._meter is None else self._meter.tokens
        return 0 if failed and tokens is None else tokens

    async def send(self, message: Message) -> None:
        """Send to the client, with how the limits stand."""
        if message["type"] == "http.response.start" and self._admission is not None:
            told = [(k.encode(), v.encode()) for k, v in self._admission.headers().items()]
            message = {**message, "headers": [*message.get("headers", ()), *told]}
        await self._client(message)

    async def _send_out(self, message: Message) -> None:
        is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if is_last and not self.goes_on:
            self.leave()
        await self._socket(message)


class KeyLimits:
    """The limits of all keys; without a limiter there are none but the body's."""

    def __init__(
        self, limiter: Limiter | None, settings: Settings, metrics: GatewayMetrics
    ) -> None:
        self._limiter, self._metrics = limiter, metrics
        self._defaults = Limits(
            settings.requests_per_minute,
            settings.tokens_per_minute,
            settings.concurrent_requests,
        )
        self._max_body_bytes = settings.max_body_bytes

    @contextmanager
    def request(self, caller: Caller, endpoint: Endpoint, send: Send) -> Iterator[LimitedRequest]:
        """Let a request in for as long as the block lasts.

        Raises:
            RateLimited: a limit of the key is reached.
        """
        limits = caller.limits.over(self._defaults)
        most = min(self._max_body_bytes, limits.max_body_bytes or self._max_body_bytes)
        if self._limiter is None:
            yield LimitedRequest(None, send, most)
            return
        if endpoint.handling is Handling.RESPONSE:
            # Clients look with it how far what they have under way is.
            limits = replace(limits, concurrent_requests=None)
        anthropic = Handling.MESSAGES in (endpoint.handling, endpoint.errors_as)
        try:
            admission = self._limiter.enter(caller.id, limits, anthropic=anthropic)
        except RateLimited as error:
            self._metrics.record_limited(_kind(error))
            raise
        request = LimitedRequest(admission, send, most)
        failed = True
        try:
            yield request
            failed = False
        except RateLimited as error:
            self._metrics.record_limited(_kind(error))
            raise
        except asyncio.CancelledError:
            failed = False
            raise
        finally:
            if not request.goes_on:
                request.leave(failed=failed)


def _kind(error: RateLimited) -> Limit:
    if isinstance(error, TokensLimited):
        return Limit.TOKENS
    return Limit.CONCURRENCY if isinstance(error, ConcurrencyLimited) else Limit.REQUESTS
