"""Tests of greatest cosines, against the plain product."""

from __future__ import annotations

import numpy as np
import pytest

from detectors.similarity import best_cosine_per_text, best_cosines


@pytest.mark.parametrize("windows", [0, 1, 64, 150])
def test_blocks_give_what_one_product_gives(windows: int) -> None:
    """Working in blocks changes nothing."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(7, 5)).astype(np.float32)
    texts = rng.normal(size=(windows, 5)).astype(np.float32)
    owners = np.sort(rng.integers(0, 9, windows)).astype(np.int32)
    product = texts @ rows.T
    per_row = product.max(axis=0, initial=-1)
    per_text = [product[owners == o].max(initial=-1) for o in range(owners.max(initial=-1) + 1)]

    assert np.allclose(best_cosines(texts, rows), per_row, atol=1e-6)
    assert np.allclose(best_cosine_per_text(texts, owners, rows), per_text, atol=1e-6)


def test_no_rows_are_no_evidence() -> None:
    """Without rows every text is as far as can be."""
    owners = np.array([0, 2], dtype=np.int32)
    found = best_cosine_per_text(np.eye(2, 3, dtype=np.float32), owners, np.zeros((0, 3), "f4"))

    assert found.tolist() == [-1, -1, -1]
