"""One request of the soak over the wire, by a client that is quick, slow, or leaves."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp

from server.bench.soak.requests import Ask, Manner

# So long may a server say nothing, and so long may all take but a slow client's own pauses.
SILENCE_SECONDS = 60.0
DEADLINE_SECONDS = 120.0
_PIECE_BYTES = 64
_PAUSE_SECONDS = 0.05
# A client leaves within so many pieces of a stream, or before anything else has come.
_LEAVES_AFTER_PIECES = 4
_LEAVES_AFTER_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class Spoken:
    """A request as it went; times are `time.monotonic` seconds.

    Attributes:
        status: None if none arrived.
        decision: what the guard told an admin; None where it told nothing.
        body: what was received.
        paused: how long the client itself kept the exchange waiting.
        left: whether the client broke off.
        fault: class of the error that ended it, or "".
    """

    ask: Ask
    sent: float
    ended: float
    status: int | None
    decision: str | None
    body: bytes
    paused: float = 0.0
    left: bool = False
    fault: str = ""

    @property
    def seconds(self) -> float:
        """How long the server took."""
        return self.ended - self.sent - self.paused


class _Reading:
    """What has arrived so far."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.decision: str | None = None
        self.body = bytearray()
        self.pauses = 0
        self.left = False

    async def pause(self) -> None:
        self.pauses += 1
        await asyncio.sleep(_PAUSE_SECONDS)


async def speak(session: aiohttp.ClientSession, ask: Ask, hurry: float = 1.0) -> Spoken:
    """Send a request and read its answer as its client's manner is; raises nothing.

    `hurry` below 1 makes the deadlines shorter.
    """
    reading, fault = _Reading(), ""
    sent = time.monotonic()
    patience = 0.0 if ask.manner is not Manner.SLOW else DEADLINE_SECONDS
    try:
        async with asyncio.timeout(hurry * DEADLINE_SECONDS + patience):
            await _exchange(session, ask, reading, hurry)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        fault = type(error).__name__
    return Spoken(
        ask,
        sent,
        time.monotonic(),
        reading.status,
        reading.decision,
        bytes(reading.body),
        reading.pauses * _PAUSE_SECONDS,
        reading.left,
        fault,
    )


async def _exchange(
    session: aiohttp.ClientSession, ask: Ask, reading: _Reading, hurry: float
) -> None:
    raw = json.dumps(ask.body).encode()
    data = _in_drops(raw, reading) if ask.manner is Manner.SLOW else raw
    leaves_early = ask.manner is Manner.LEAVING and not ask.streams
    silence = _LEAVES_AFTER_SECONDS if leaves_early else hurry * SILENCE_SECONDS
    timeout = aiohttp.ClientTimeout(total=None, sock_read=silence)
    headers = {"content-type": "application/json"}
    pieces = 0
    try:
        async with session.post(ask.path, data=data, headers=headers, timeout=timeout) as response:
            reading.status = response.status
            reading.decision = response.headers.get("x-lethegate-decision")
            async for piece in response.content.iter_any():
                reading.body += piece
                pieces += 1
                if ask.manner is Manner.SLOW:
                    await reading.pause()
                elif ask.manner is Manner.LEAVING and pieces == _LEAVES_AFTER_PIECES:
                    reading.left = True
                    return
    except aiohttp.SocketTimeoutError:
        if not leaves_early:
            raise
        reading.left = True


async def _in_drops(raw: bytes, reading: _Reading) -> AsyncIterator[bytes]:
    for start in range(0, len(raw), _PIECE_BYTES):
        yield raw[start : start + _PIECE_BYTES]
        await reading.pause()
