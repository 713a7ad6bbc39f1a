"""Tests of split-conformal thresholds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.calibration import UNSUPPORTED_MARGIN, conformal_threshold, smallest_sample

FREE = {"floor": -1.0, "ceiling": 2.0}


def _scores(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def test_rank_is_the_finite_sample_one() -> None:
    """With n = 199 and alpha = 0.01 the threshold lies just above the second largest score."""
    scores = np.linspace(0, 1, 199, dtype=np.float32)
    found = conformal_threshold(scores, 0.01, **FREE)

    assert found.rank == 198
    assert found.supported
    assert scores[197] < found.value < scores[198]


@given(
    st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=60), st.sampled_from([0.05, 0.1, 0.3])
)
def test_leave_one_out_rate_is_at_most_alpha(values: list[float], alpha: float) -> None:
    """Over all ways to hold one score out, at most a share alpha of them fires."""
    scores = _scores(*values)
    fired = 0
    for held in range(len(scores)):
        found = conformal_threshold(np.delete(scores, held), alpha, **FREE)
        fired += bool(scores[held] >= found.value) and found.supported

    assert fired <= alpha * len(scores) + 1e-9


def test_too_few_scores_are_told_and_cautious() -> None:
    """Without the sample for alpha the threshold stands above every benign score."""
    found = conformal_threshold(_scores(0.2, 0.5), 0.01, **FREE)

    assert not found.supported
    assert found.rank == 0
    assert found.value == pytest.approx(0.5 + UNSUPPORTED_MARGIN)


def test_floor_and_ceiling_bind() -> None:
    """The floor keeps the guarantee, the ceiling gives it up; no scores give the floor or more."""
    low = conformal_threshold(np.zeros(999, np.float32), 0.01, floor=0.4, ceiling=0.9)
    high = conformal_threshold(np.ones(999, np.float32), 0.01, floor=0.4, ceiling=0.9)
    none = conformal_threshold(_scores(), 0.01, floor=0.4, ceiling=0.9)

    assert (low.value, low.supported) == (0.4, True)
    assert (high.value, high.supported) == (0.9, False)
    assert none.value >= 0.4


@pytest.mark.parametrize(("alpha", "sample"), [(0.005, 199), (0.01, 99), (0.05, 19), (0.5, 1)])
def test_smallest_sample(alpha: float, sample: int) -> None:
    """The stated number is enough, one less is not."""
    enough = conformal_threshold(np.zeros(sample, np.float32), alpha, **FREE)
    short = conformal_threshold(np.zeros(sample - 1, np.float32), alpha, **FREE)

    assert smallest_sample(alpha) == sample
    assert enough.supported
    assert not short.supported


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, float("nan")])
def test_alpha_must_be_a_rate(alpha: float) -> None:
    """Anything but a rate between 0 and 1 is refused."""
    with pytest.raises(ValueError, match="alpha"):
        conformal_threshold(_scores(0.1), alpha, **FREE)
