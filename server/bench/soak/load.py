"""The soak's load: so many clients, each with one request at a time, until told to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator

import aiohttp

from server.bench.figures import Window
from server.bench.soak.exchange import speak
from server.bench.soak.judge import Judged, Outcome, judge
from server.bench.soak.part import Part
from server.bench.soak.requests import Ask

# Without a server clients would do nothing but ask for it.
_PAUSE_SECONDS = 0.25


class Load(Part):
    """Runs the clients on a thread of its own and judges what they get.

    `restarts` gives the times without a server so far.
    """

    def __init__(
        self,
        base_url: str,
        key: str,
        asks: Iterator[Ask],
        concurrency: int,
        restarts: Callable[[], list[Window]] = list,
        on_answer: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__("load")
        self._on_answer = on_answer
        self._base_url, self._asks, self._concurrency = base_url, asks, concurrency
        # An admin is told what was decided, which tells a false alarm from a wrong answer.
        self._headers = {"authorization": f"Bearer {key}"}
        self._restarts = restarts
        self.judged: list[Judged] = []

    def join(self) -> None:
        """Wait until every request is answered.

        Raises:
            BaseException: what ended the clients.
        """
        while self._thread.is_alive():
            self._thread.join(0.2)  # without a limit Ctrl-C would not be heard
        self.check()

    def _work(self) -> None:
        asyncio.run(self._clients())

    async def _clients(self) -> None:
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with (
            aiohttp.ClientSession(
                self._base_url, connector=connector, headers=self._headers, trust_env=False
            ) as session,
            asyncio.TaskGroup() as clients,
        ):
            for _ in range(self._concurrency):
                clients.create_task(self._client(session))

    async def _client(self, session: aiohttp.ClientSession) -> None:
        for ask in self._asks:
            if self._stop.is_set():
                return
            spoken = await speak(session, ask)
            judged = judge(spoken, self._restarts())
            self.judged.append(judged)
            self._on_answer()
            if judged.outcome in (Outcome.CUT, Outcome.REFUSED, Outcome.BROKEN):
                await asyncio.sleep(_PAUSE_SECONDS)


def all_of(
    base_url: str, key: str, asks: Iterable[Ask], concurrency: int, on_answer: Callable[[], None]
) -> list[Judged]:
    """Ask each of these once; gives the outcomes in the order of the answers."""
    load = Load(base_url, key, iter(asks), concurrency, on_answer=on_answer)
    load.start()
    load.join()
    return load.judged
