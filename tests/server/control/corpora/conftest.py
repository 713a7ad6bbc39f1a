"""Gateways that follow the corpora of a control process."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from guard.follower import Active, Follower
from server.settings import Settings


@pytest.fixture
def follow_corpora(settings: Settings) -> Iterator[Callable[..., Follower]]:
    """Start gateways that follow the corpora."""
    started: list[Follower] = []

    def start(load: Callable[[Active], None] = lambda active: None) -> Follower:
        follower = Follower(settings.corpora, "gateway", load)
        follower.start()
        started.append(follower)
        return follower

    yield start
    for follower in started:
        follower.stop()
