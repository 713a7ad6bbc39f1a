"""Sends the cases to a server and has judged what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx

from server.attack.active import Active, Checks
from server.attack.cases import Case, Prey, request_of
from server.attack.errors import ServerSilent
from server.attack.judge import Outcome, Result, judge
from server.attack.shapes import SHAPES

_TIMEOUT_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Asking:
    """With which key a server is asked what it had switched on for `target`."""

    key: str
    target: str


class Server:
    """A server under attack, which is asked for its checks where `asking` is given."""

    def __init__(
        self, url: str, key: str | None, concurrency: int, asking: Asking | None = None
    ) -> None:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        self._client = httpx.AsyncClient(
            base_url=url.rstrip("/"), headers=headers, timeout=_TIMEOUT_SECONDS
        )
        self._places = asyncio.Semaphore(concurrency)
        self._checks = None
        if asking is not None:
            self._checks = Checks(self._client, asking.key, asking.target)

    async def attack(
        self,
        cases: Sequence[Case],
        prey: Sequence[Prey],
        progress: Callable[[], None],
        known: Sequence[Active | None] | None = None,
    ) -> list[Result]:
        """Try all cases; the results in the same order.

        `known` is what another server had switched on for each case: answers are judged by it.

        Raises:
            ChecksRefused: the server is to be asked for its checks, and refuses.
            ServerSilent: the server does not answer.
        """
        async with self._client:
            if self._checks is not None:
                await self._checks.begin()
            model = await self._model()
            given = known or [None] * len(cases)
            tasks = [
                self._try(case, prey, model, active, progress)
                for case, active in zip(cases, given, strict=True)
            ]
            return list(await asyncio.gather(*tasks))

    async def _model(self) -> str:
        try:
            answer = await self._client.get("/v1/models")
            return str(answer.raise_for_status().json()["data"][0]["id"])
        except (httpx.HTTPError, ValueError, LookupError) as error:
            raise ServerSilent(
                f"the server does not list a model: {type(error).__name__}"
            ) from None

    async def _tokens(self, model: str, text: str) -> list[int]:
        answer = await self._client.post("/tokenize", json={"model": model, "prompt": text})
        return list(answer.raise_for_status().json()["tokens"])

    async def _try(
        self,
        case: Case,
        prey: Sequence[Prey],
        model: str,
        active: Active | None,
        progress: Callable[[], None],
    ) -> Result:
        path, body = request_of(case, prey, model)
        async with self._places:
            try:
                if SHAPES[case.shape].as_tokens:
                    body = {**body, "prompt": await self._tokens(model, body["prompt"])}
                answer = await self._client.post(path, json=body)
            except (httpx.HTTPError, ValueError, LookupError):
                result = Result(case, Outcome.FAILED, 0, active=active)
            else:
                if self._checks is not None:
                    active = await self._checks.active(path, body, answer)
                stream = answer.status_code == httpx.codes.OK and bool(body.get("stream"))
                result = judge(case, prey, answer, stream=stream, active=active)
        progress()
        return result
