"""Tests of the shipped benign texts."""

from __future__ import annotations

from detectors.benign import benign_answers, benign_prompts, boilerplate
from detectors.calibration import smallest_sample


def test_there_are_enough_distinct_prompts() -> None:
    """The default rate is supported even where two kinds of rows share it."""
    prompts = benign_prompts()

    assert len(prompts) == len(set(prompts))
    assert len(prompts) >= smallest_sample(0.005 / 2)
    assert all(prompt == prompt.strip() for prompt in prompts)


def test_answers_tell_the_default_rate_and_quote_nothing() -> None:
    """There are enough for one in a hundred, and none shares eight words with the boilerplate."""
    answers, quotes = benign_answers(), boilerplate()

    def runs(texts: tuple[str, ...]) -> set[tuple[str, ...]]:
        listed = [text.lower().split() for text in texts]
        return {tuple(words[at : at + 8]) for words in listed for at in range(len(words) - 7)}

    assert len(answers) == len(set(answers)) >= smallest_sample(0.01)
    assert len(quotes) == len(set(quotes))
    assert not runs(answers) & runs(quotes)
