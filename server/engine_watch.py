"""An engine that hangs: its process lives, but it steps no more.

vLLM sees an engine that dies, not one that is stopped or waits for a kernel that never returns: its
`/health` stays 200, and requests wait for ever. So the engine is asked something that its loop
answers between two steps, whether there are requests or not. It counts as hung when one such answer
has not come for longer than any step may take; once it comes, the engine is used again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.endpoints import routed_path
from server.errors import EngineStalled
from server.exchange import until_cut_short
from server.log import get_logger
from server.reply import reply_of
from server.shielded_response import send_reply

# vLLM's own probes, which know only of an engine that died.
_PROBES = ("/health", "/ping")
_ASK_AGAIN_SECONDS = 5.0
_LOOK_SECONDS = 1.0
_ABORT_SECONDS = 0.5

log = get_logger("engine")


class EngineWatch:
    """Asks the engine again and again; `stalled` is set while it owes an answer for too long.

    `ask` is answered by every engine of the server, between two steps. `tell` is told, in seconds,
    for how long an answer has been waited for; 0: none is owed.
    """

    def __init__(
        self,
        ask: Callable[[], Awaitable[object]],
        stall_seconds: float,
        tell: Callable[[float], None],
    ) -> None:
        self._ask = ask
        self._stall_seconds = stall_seconds
        self._tell = tell
        self._task: asyncio.Task[None] | None = None
        self.stalled = asyncio.Event()

    def start(self) -> None:
        """Ask from now on, on the running loop and until it ends."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        pause = min(_ASK_AGAIN_SECONDS, self._stall_seconds / 4)
        while True:
            await self._answer()
            if self.stalled.is_set():
                self.stalled.clear()
                log.warning("engine_answers_again")
            self._tell(0.0)
            await asyncio.sleep(pause)

    async def _answer(self) -> None:
        """Ask once and wait for the answer; that it is an error says that there is a loop."""
        asked = asyncio.ensure_future(self._ask())
        silent, last = 0.0, time.monotonic()
        look = min(_LOOK_SECONDS, self._stall_seconds / 4)
        try:
            while not (await asyncio.wait({asked}, timeout=look))[0]:
                now = time.monotonic()
                # Where this process itself stood still, it knows of no more than a moment.
                silent += min(now - last, 2 * look)
                last = now
                self._tell(silent)
                if silent >= self._stall_seconds and not self.stalled.is_set():
                    self.stalled.set()
                    log.error("engine_stalled", seconds=round(silent, 1))
        finally:
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)


def with_engine_watch(app: ASGIApp, watch: EngineWatch, count: Callable[[], None]) -> ASGIApp:
    """The app, which while its engine hangs is not healthy and lets nobody wait.

    A request then, or one that waits already, is counted and raises `EngineStalled`.
    """

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            try:
                await _answered(app, scope, receive, send, watch.stalled)
            except EngineStalled:
                count()
                raise
        elif watch.stalled.is_set() and routed_path(scope) in _PROBES:
            await send_reply(send, reply_of(EngineStalled()), [])
        else:
            await app(scope, receive, send)

    return serve


async def _answered(
    app: ASGIApp, scope: Scope, receive: Receive, send: Send, stalled: asyncio.Event
) -> None:
    if stalled.is_set():
        raise EngineStalled()
    given_up = False

    async def send_on(message: Message) -> None:
        # What the app says to a client that it believes gone is no answer.
        if not given_up:
            await send(message)

    answer = asyncio.ensure_future(app(scope, until_cut_short(receive, stalled), send_on))
    hangs = asyncio.ensure_future(stalled.wait())
    try:
        await asyncio.wait({answer, hangs}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            given_up = True
            # On its usual way, as if the client had left; the engine learns of it when it wakes.
            await asyncio.wait({answer}, timeout=_ABORT_SECONDS)
            raise EngineStalled()
        answer.result()
    finally:
        answer.cancel()
        hangs.cancel()
        await asyncio.gather(answer, hangs, return_exceptions=True)
