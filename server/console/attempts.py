"""Failed logins, counted: who guesses is made to wait.

Only the console's login waits; a key is 256 random bits unless an operator chose another.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address

from server.errors import RateLimited

WINDOW_SECONDS = 60.0
MOST_OF_ONE_ADDRESS = 10
MOST = 100


class Attempts:
    """The failed logins of the last minute; for one thread. `clock` never goes back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed: deque[tuple[float, str]] = deque(maxlen=MOST)

    def check(self, address: str) -> None:
        """Refuse a login before its key is looked at.

        Raises:
            RateLimited: too many have failed, from there or from everywhere.
        """
        now, network = self._clock(), _network(address)
        while self._failed and now - self._failed[0][0] >= WINDOW_SECONDS:
            self._failed.popleft()
        own = [at for at, place in self._failed if place == network]
        full = own if len(own) >= MOST_OF_ONE_ADDRESS else [at for at, _ in self._failed]
        if full is own or len(full) >= MOST:
            wait = int(full[0] + WINDOW_SECONDS - now) + 1
            raise RateLimited("Too many failed logins: wait a minute.", retry_after_seconds=wait)

    def failed(self, address: str) -> None:
        """Count a failed login."""
        self._failed.append((self._clock(), _network(address)))


def _network(address: str) -> str:
    """An address, or the network that one holder of IPv6 addresses has."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        return str(IPv6Address(int(parsed) >> 64 << 64))
    return address
