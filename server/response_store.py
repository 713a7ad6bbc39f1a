"""Responses that clients may come back to, in memory, those of each key apart.

What is kept is what the client was shown, and the request with all earlier turns, so that it can be
judged again under the policy of the day. The oldest make room for new ones.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from server.sse import encode_json


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A request's body, earlier turns included, and the response to it; both JSON."""

    request: bytes
    answer: bytes

    @classmethod
    def of(cls, request: dict[str, Any], answer: dict[str, Any]) -> StoredResponse:
        """Both as JSON."""
        return cls(encode_json(request), encode_json(answer))

    @property
    def num_bytes(self) -> int:
        """How long both are."""
        return len(self.request) + len(self.answer)


class ResponseStore:
    """At most `max_bytes` for each owner; 0 keeps nothing."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._owned: dict[str, OrderedDict[str, StoredResponse]] = {}
        self._num_bytes: dict[str, int] = {}

    @property
    def is_on(self) -> bool:
        """Whether anything can be kept."""
        return self._max_bytes > 0

    def put(self, owner: str, response_id: str, stored: StoredResponse) -> None:
        """Keep a response, in place of one of the same id; the oldest leave."""
        own = self._owned.setdefault(owner, OrderedDict())
        self._drop(owner, own.pop(response_id, None))
        own[response_id] = stored
        self._num_bytes[owner] = self._num_bytes.get(owner, 0) + stored.num_bytes
        while own and self._num_bytes[owner] > self._max_bytes:
            self._drop(owner, own.popitem(last=False)[1])

    def get(self, owner: str, response_id: str) -> StoredResponse | None:
        """A response of this owner's."""
        own = self._owned.get(owner)
        return None if own is None else own.get(response_id)

    def _drop(self, owner: str, stored: StoredResponse | None) -> None:
        if stored is not None:
            self._num_bytes[owner] -= stored.num_bytes
