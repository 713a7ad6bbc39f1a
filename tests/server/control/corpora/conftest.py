"""Gateways that follow the corpora of a control process."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from guard.follower import Follower
from server.settings import Settings
from tests.server.control.following import following


@pytest.fixture
def follow_corpora(settings: Settings) -> Iterator[Callable[..., Follower]]:
    """Start gateways that follow the corpora."""
    with following(settings.corpora) as start:
        yield start
