"""Real followers of a policy or of corpora, ended with the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from guard.follower import Active, Follower


@contextmanager
def following(directory: Path) -> Iterator[Callable[..., Follower]]:
    """What starts gateways that follow a directory; `load` may raise to reject what is active."""
    started: list[Follower] = []

    def start(load: Callable[[Active], None] = lambda active: None) -> Follower:
        follower = Follower(directory, "gateway", load)
        follower.start()
        started.append(follower)
        return follower

    yield start
    for follower in started:
        follower.stop()
