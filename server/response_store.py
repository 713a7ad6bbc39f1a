"""Responses that clients may come back to, in memory, those of each key apart.

What is kept is what the client was shown, and the request with all earlier turns, so that it can be
judged again under the policy of the day. The oldest make room for new ones.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A request's body, earlier turns included, and the response to it; both JSON."""

    request: bytes
    answer: bytes

    @property
    def num_bytes(self) -> int:
        """How long both are."""
        return len(self.request) + len(self.answer)


class ResponseStore:
    """At most `max_bytes` for each owner and `total_bytes` for all; 0 of either keeps nothing.

    The oldest of an owner leave for its own limit, the oldest of all for the total. So nobody can
    push out more of the others' than `max_bytes`, and what deleted keys have left ages out like the
    rest. (To take from the largest owner instead would keep the leavings of small ones for ever.)
    """

    def __init__(self, max_bytes: int, total_bytes: int) -> None:
        self._max_bytes = min(max_bytes, total_bytes)
        self._total_bytes = total_bytes
        self._owned: dict[str, OrderedDict[str, StoredResponse]] = {}
        self._owned_bytes: dict[str, int] = {}
        # Owner and id of all, the oldest first.
        self._by_age: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._num_bytes = 0

    @property
    def is_on(self) -> bool:
        """Whether anything can be kept."""
        return self._max_bytes > 0

    @property
    def num_owners(self) -> int:
        """How many have something here."""
        return len(self._owned)

    @property
    def num_bytes(self) -> int:
        """How much there is of all owners together."""
        return self._num_bytes

    def takes(self, num_bytes: int) -> bool:
        """Whether there can be room for so much at once."""
        return num_bytes <= self._max_bytes

    def put(self, owner: str, response_id: str, stored: StoredResponse) -> bool:
        """Keep a response, in place of one of the same id; the oldest leave.

        False, with the others left alone, where there can be no room for it.
        """
        self._drop(owner, response_id)
        if not self.takes(stored.num_bytes):
            return False
        own = self._owned.setdefault(owner, OrderedDict())
        own[response_id] = stored
        self._by_age[owner, response_id] = None
        self._owned_bytes[owner] = self._owned_bytes.get(owner, 0) + stored.num_bytes
        self._num_bytes += stored.num_bytes
        while self._owned_bytes[owner] > self._max_bytes:
            self._drop(owner, next(iter(own)))
        while self._num_bytes > self._total_bytes:
            self._drop(*next(iter(self._by_age)))
        return True

    def get(self, owner: str, response_id: str) -> StoredResponse | None:
        """A response of this owner's."""
        own = self._owned.get(owner)
        return None if own is None else own.get(response_id)

    def _drop(self, owner: str, response_id: str) -> None:
        if (owner, response_id) not in self._by_age:
            return
        del self._by_age[owner, response_id]
        num_bytes = self._owned[owner].pop(response_id).num_bytes
        self._num_bytes -= num_bytes
        self._owned_bytes[owner] -= num_bytes
        if not self._owned[owner]:
            del self._owned[owner], self._owned_bytes[owner]
