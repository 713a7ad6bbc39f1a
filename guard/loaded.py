"""The policies that a worker has loaded, by digest.

A policy is loaded beside the steps, on the thread that follows the active one. That costs a step
time in two ways, and both are kept below a fraction of a millisecond: the interpreter, which the
thread holds for moments only, and a core, which a step that had to wait for the interpreter gets
back only when whoever runs there has had its share (3 to 4 ms). So the files are checked by another
process that runs on idle cores only, and the rest is done in pieces with pauses. A low priority for
the thread itself would not do: whoever waits for the interpreter waits for the thread that has it,
however seldom that is given a core.
"""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

KEPT_POLICIES = 8
PAUSE_SECONDS = 0.0002
SWITCH_SECONDS = 0.0002

Policy = TypeVar("Policy")
Pause = Callable[[], object]


def no_pause() -> None:
    """Go on at once."""


class Loaded(Generic[Policy]):
    """The newest policies, and the older ones that are in use.

    Args:
        load: reads and checks the policy of a digest. Beside steps it gets a function to call after
            every piece of work, of half a millisecond or so.
        is_used: whether any slot needs a policy. One that is, is kept, so that none goes while a
            step waits for that, or is read again for a request that was preempted.
    """

    def __init__(
        self, load: Callable[[str, Pause | None], Policy], is_used: Callable[[Policy], bool]
    ) -> None:
        self._load = load
        self._is_used = is_used
        self._policies: OrderedDict[str, Policy] = OrderedDict()
        # One load at a time: a step that needs what is being loaded waits for that.
        self._loading = threading.Lock()
        self._awaited = threading.Event()

    def get(self, digest: str) -> Policy:
        """The policy for a request that enters. One that was not preloaded is loaded here.

        That holds up the whole batch, as no row may go on without its policy. It does not happen to
        a new policy: gateways name one only when every worker has it.

        Raises:
            GuardError: what `load` raises.
        """
        policy = self._policies.get(digest)
        if policy is None:
            self._awaited.set()
            with self._loading:
                self._awaited.clear()
                policy = self._find(digest, None)
        return policy

    def preload(self, digest: str) -> Policy:
        """Load a policy beside the steps; it is the newest now.

        Raises:
            GuardError: what `load` raises.
        """
        interval = sys.getswitchinterval()
        # Otherwise a step that wants the interpreter waits for the usual 5 ms.
        sys.setswitchinterval(SWITCH_SECONDS)
        try:
            with self._loading:
                policy = self._find(digest, self._pause)
                self._policies.move_to_end(digest)
        finally:
            sys.setswitchinterval(interval)
        return policy

    def _pause(self) -> None:
        self._awaited.wait(PAUSE_SECONDS)

    def _find(self, digest: str, pause: Pause | None) -> Policy:
        policy = self._policies.get(digest)
        if policy is None:
            policy = self._policies[digest] = self._load(digest, pause)
            self._forget()
        return policy

    def _forget(self) -> None:
        spare = len(self._policies) - KEPT_POLICIES
        for digest in [*self._policies][: max(spare, 0)]:
            if not self._is_used(self._policies[digest]):
                del self._policies[digest]
