"""Tests of the heads in closed form, against plain least squares."""

from __future__ import annotations

import numpy as np
import pytest

from detectors.heads import HEAD_WEIGHT, NO_SCORE, RIDGE, BenignGram, scores


def unit(seed: int, count: int, dimension: int = 6) -> np.ndarray:
    """Random unit vectors."""
    rows = np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def fit(prompts: np.ndarray, benign: np.ndarray) -> np.ndarray:
    """The same by the normal equations."""
    rows = np.concatenate([prompts, benign]).astype(np.float64)
    labels = np.r_[np.ones(len(prompts)), np.zeros(len(benign))]
    return np.linalg.solve(rows.T @ rows + RIDGE * np.eye(rows.shape[1]), rows.T @ labels)


@pytest.mark.parametrize("prompts", [1, 4, 6, 30])
@pytest.mark.parametrize("benign", [0, 20])
def test_heads_are_least_squares(prompts: int, benign: int) -> None:
    """With fewer prompts than dimensions and with more."""
    own, other = unit(0, prompts), unit(1, benign)

    assert np.allclose(BenignGram(other).head(own), fit(own, other), atol=1e-5)


def test_no_prompts_are_no_head() -> None:
    """A target of documents has zeros."""
    assert not BenignGram(unit(0, 5)).head(np.zeros((0, 6), np.float32)).any()


def test_unseen_prompts_are_those_of_a_fit_without_them() -> None:
    """The leverages give what leaving each prompt out would."""
    own, other = unit(2, 8), unit(3, 20)
    found = BenignGram(other).unseen_own(own)
    wanted = [own[n] @ fit(np.delete(own, n, 0), other) for n in range(len(own))]

    assert np.allclose(found, wanted, atol=1e-5)


def test_unseen_benign_prompts_are_judged_cautiously() -> None:
    """Never lower than a fit without them would, where the head says anything for the target."""
    own, other = unit(4, 3), unit(5, 20)
    gram = BenignGram(other)
    seen = other @ gram.head(own)
    wanted = [other[n] @ fit(own, np.delete(other, n, 0)) for n in range(len(other))]
    positive = seen > 0

    assert np.all((seen * gram.unseen)[positive] >= np.array(wanted)[positive] - 1e-5)


def test_scores_count_from_a_cosine_on() -> None:
    """Per row the greatest sum over windows that are near enough."""
    windows, rows = unit(6, 5), unit(7, 9)
    heads = unit(8, 9)
    cosines = windows @ rows.T
    both = np.where(cosines >= 0.1, cosines + HEAD_WEIGHT * (windows @ heads.T), NO_SCORE)

    assert np.allclose(scores(windows, rows, heads, 0.1), both.max(axis=0), atol=1e-6)
    assert (scores(windows[:0], rows, heads, 0.1) == np.float32(NO_SCORE)).all()
