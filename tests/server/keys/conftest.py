"""Time for the limits of keys."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from server.keys import limits as limits_module


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Time that passes when it is told to."""
    now = [1000.0]
    monkeypatch.setattr(limits_module, "monotonic", lambda: now[0])

    def go_on(seconds: float) -> None:
        now[0] += seconds

    return go_on
