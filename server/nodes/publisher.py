"""A pointer that the followers of nodes are waited for, too."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from server.policy import FollowerStatus, Pointer, Publisher

# Gives the followers that are elsewhere.
Elsewhere = Callable[[], Sequence[FollowerStatus]]


class WithNodes:
    """A publisher whose followers are those of this machine and those elsewhere."""

    def __init__(self, publisher: Publisher, elsewhere: Elsewhere) -> None:
        self._publisher, self._elsewhere = publisher, elsewhere

    def read(self) -> Pointer | None:
        """What the pointer names; None before the first policy."""
        return self._publisher.read()

    def claim(self, epoch: int) -> None:
        """Keep those who led before the lead `epoch` from moving the pointer.

        Raises:
            LeaseLost: another process leads by now.
        """
        self._publisher.claim(epoch)

    def publish(self, generation: int, digest: str) -> None:
        """Move the pointer, durably and in one step.

        Raises:
            LeaseLost: another process leads by now; the pointer stays as it is.
        """
        self._publisher.publish(generation, digest)

    def followers(self) -> Sequence[FollowerStatus]:
        """The live followers."""
        return [*self._publisher.followers(), *self._elsewhere()]

    def holds(self, digest: str) -> bool:
        """Whether the snapshot of this digest is there."""
        return self._publisher.holds(digest)
