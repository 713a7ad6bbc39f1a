"""Shares and their intervals."""

from __future__ import annotations

import pytest

from server.eval.intervals import share, wilson


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (5, 10, 0.2366, 0.7634),
        (2, 400, 0.0014, 0.0180),
    ],
)
def test_intervals_are_wilsons(hits: int, count: int, low: float, high: float) -> None:
    """Values as tables of the method give them."""
    assert wilson(hits, count) == pytest.approx((low, high), abs=1e-4)


def test_a_share_states_its_count() -> None:
    """Flat keys; nothing counted is a share of 0 that could be anything."""
    assert share("x", [True, False, True, True])["x"] == 0.75
    assert share("x", [True, False])["x_count"] == 2
    assert share("x", []) == {"x": 0.0, "x_hits": 0, "x_count": 0, "x_low": 0.0, "x_high": 1.0}
