"""Load: concurrent streaming chat completions against one server.

A closed loop: each of `concurrency` clients sends its next request when its last one is over. The
token count is fixed (`ignore_eos`), so that two servers do the same work for the same prompts, but
not the same for all: answers of one length end together, and then all clients ask together and the
engine stands still while their prompts are screened, which no real traffic does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any
from zlib import crc32

import aiohttp

from server.bench.answers import Exchange

# A stream that says nothing for so long has failed; a slow machine's longest gap is far below.
_SILENCE_SECONDS = 120.0
# A dead server refuses at once: without a pause the clients would do nothing but ask it again.
_FAULT_PAUSE_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Workload:
    """What is asked of a server: `max_tokens` tokens on average."""

    base_url: str
    model: str
    concurrency: int
    max_tokens: int

    def tokens(self, prompt: str) -> int:
        """Half to one and a half times `max_tokens`, always the same for the same prompt."""
        return max(2, round(self.max_tokens * (0.5 + crc32(prompt.encode()) / 2**32)))

    def body(self, prompt: str) -> dict[str, Any]:
        """The request for one prompt."""
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": self.tokens(prompt),
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }


def take_prompts(prompts: Sequence[str], start: int, count: int) -> list[str]:
    """`count` prompts from `start` on, beginning again at the end."""
    return list(islice(cycle(prompts), start % len(prompts), start % len(prompts) + count))


def run_load(
    workload: Workload, prompts: Iterable[str], on_answer: Callable[[], None] = lambda: None
) -> list[Exchange]:
    """Send every prompt once and wait for all answers."""
    return asyncio.run(send_all(workload, prompts, on_answer=on_answer))


async def send_all(
    workload: Workload,
    prompts: Iterable[str],
    *,
    stop: asyncio.Event | None = None,
    on_answer: Callable[[], None] = lambda: None,
) -> list[Exchange]:
    """Send prompts until they are used up or `stop` is set; running requests are finished.

    Gives the exchanges in the order of the prompts.
    """
    waiting = enumerate(prompts)
    exchanges: dict[int, Exchange] = {}

    async def client(session: aiohttp.ClientSession) -> None:
        for number, prompt in _until(waiting, stop):
            exchanges[number] = await _exchange(session, workload, prompt)
            on_answer()
            if exchanges[number].fault:
                await asyncio.sleep(_FAULT_PAUSE_SECONDS)

    timeout = aiohttp.ClientTimeout(total=None, sock_read=_SILENCE_SECONDS)
    # A connection that is kept may be one that the server, after a pause of the machine, closes.
    connector = aiohttp.TCPConnector(limit=workload.concurrency, force_close=True)
    async with (
        aiohttp.ClientSession(
            workload.base_url, connector=connector, timeout=timeout, trust_env=False
        ) as session,
        asyncio.TaskGroup() as clients,
    ):
        for _ in range(workload.concurrency):
            clients.create_task(client(session))
    return [exchanges[number] for number in sorted(exchanges)]


def _until(
    prompts: Iterator[tuple[int, str]], stop: asyncio.Event | None
) -> Iterator[tuple[int, str]]:
    for prompt in prompts:
        if stop is not None and stop.is_set():
            return
        yield prompt


async def _exchange(session: aiohttp.ClientSession, workload: Workload, prompt: str) -> Exchange:
    status, fault = None, ""
    pieces: list[tuple[float, bytes]] = []
    body = workload.body(prompt)
    sent = time.perf_counter()
    try:
        async with session.post("/v1/chat/completions", json=body) as response:
            status = response.status
            async for piece in response.content.iter_any():
                pieces.append((time.perf_counter(), piece))  # noqa: PERF401 - kept on a fault
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        fault = type(error).__name__
    return Exchange(
        int(body["max_tokens"]), sent, time.perf_counter(), status, tuple(pieces), fault
    )
