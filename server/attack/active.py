"""What the guard had switched on for one request, as the server under attack itself tells it.

The words of an item are forbidden only where the classifier finds the item. Whether it did cannot
be told from an answer, but `POST /v1/checks` decides anew about the very request, under the same
policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from server.attack.errors import ChecksRefused, ServerSilent

CHECKS = "/v1/checks"
GENERATION = "x-lethegate-generation"


@dataclass(frozen=True, slots=True)
class Active:
    """Whose phrases were forbidden: the attacked target's (`whole`), and those of its items."""

    whole: bool = False
    items: tuple[int, ...] = ()


class Checks:
    """Asks about one target, with a key that may, for as long as one policy is in force."""

    def __init__(self, client: httpx.AsyncClient, key: str, target: str) -> None:
        self._client = client
        self._headers = {"authorization": f"Bearer {key}"}
        self._target = target
        self._generation = ""

    async def begin(self) -> None:
        """Make sure that the key may ask, and note which policy is in force.

        Raises:
            ChecksRefused: it may not, or the server has no checks.
            ServerSilent: it does not answer.
        """
        try:
            answer = await self._ask({"text": "Hello."})
        except httpx.HTTPError as error:
            raise ServerSilent(
                f"the server does not answer a check: {type(error).__name__}"
            ) from None
        if answer.is_error:
            raise ChecksRefused(f"the server answers a check with {answer.status_code}")
        self._generation = answer.headers.get(GENERATION, "")

    async def active(
        self, path: str, body: Mapping[str, Any], answer: httpx.Response
    ) -> Active | None:
        """What was switched on for a request that had this answer.

        None where nobody can tell any more: another policy has come into force, or no decision can
        be made about such a request.
        """
        try:
            told = await self._ask({"request": {"path": path, "body": body}})
            on = told.raise_for_status().json()["active"]
        except (httpx.HTTPError, ValueError, LookupError):
            return None
        generations = {told.headers.get(GENERATION), answer.headers.get(GENERATION)}
        if generations != {self._generation}:
            return None
        own = next((entry for entry in on if entry["target"] == self._target), None)
        return Active() if own is None else Active(own["whole"], tuple(own["items"]))

    async def _ask(self, body: Mapping[str, Any]) -> httpx.Response:
        return await self._client.post(CHECKS, json=body, headers=self._headers)
