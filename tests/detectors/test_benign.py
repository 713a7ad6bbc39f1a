"""Tests of the shipped benign prompts."""

from __future__ import annotations

from detectors.benign import benign_prompts
from detectors.calibration import smallest_sample


def test_there_are_enough_distinct_prompts() -> None:
    """The default rate is supported even where two kinds of rows share it."""
    prompts = benign_prompts()

    assert len(prompts) == len(set(prompts))
    assert len(prompts) >= smallest_sample(0.005 / 2)
    assert all(prompt == prompt.strip() for prompt in prompts)
