"""The rarity scores."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wordfreq import word_frequency

from tracing.bci import (
    PUBLISHED_TAU,
    Unigrams,
    best_window,
    calibrate,
    raw_bci,
)
from tracing.errors import CalibrationTooSmall

ENGLISH = Unigrams(lambda word: word_frequency(word, "en"))

ORDINARY = (
    "it was one of the first things that we had to do in the morning and then we went to the "
    "shop to get some of the bread that you have with the soup so that was all that there is to "
    "say of it and i do not know what else you would like to be told in the end it is just a day"
)


def test_every_ordinary_window_exceeds_the_published_threshold():
    """With windows of eight words tau = 20 decides nothing, even for the commonest words."""
    surprisal = ENGLISH.surprisal(ORDINARY.split())
    windows = np.array([raw_bci(surprisal[at : at + 8]) for at in range(len(surprisal) - 7)])
    commonest = raw_bci(ENGLISH.surprisal(["the", "of", "in", "and", "s", "a", "his", "to"]))

    assert len(windows) > 50
    assert windows.min() > PUBLISHED_TAU
    assert commonest > PUBLISHED_TAU


def test_the_mean_over_a_span_hides_its_rare_core():
    """The best window finds a rare name that a long ordinary span drowns."""
    core = "zuleika wensleydale thaumaturge borborygmus eigenvector palimpsest quokka axolotl"
    words = (ORDINARY + " " + core + " " + ORDINARY).split()
    surprisal = ENGLISH.surprisal(words)

    best = best_window(surprisal, 8)

    assert core.split() == words[best.start : best.end]
    assert best.nats > 12 > 8 > surprisal.mean()


def test_unseen_words_have_the_published_floor():
    """What the background corpus does not know counts 1e-9."""
    assert -math.log(1e-9) == ENGLISH.surprisal(["qqqzzzqx"])[0]


@given(st.lists(st.floats(0.1, 20), min_size=1, max_size=30), st.integers(1, 8))
def test_the_best_window_is_the_best(values, minimum):
    """No window of at least the minimum has a higher mean."""
    surprisal = np.array(values)
    n = len(values)
    windows = [(a, b) for a in range(n) for b in range(a + min(minimum, n), n + 1)]

    best = best_window(surprisal, minimum)

    assert best.nats == pytest.approx(max(surprisal[a:b].mean() for a, b in windows))
    assert best.nats == pytest.approx(surprisal[best.start : best.end].mean())


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
def test_calibration_holds_the_stated_rate(rate):
    """Over many draws, new benign texts exceed the threshold at no more than the stated rate."""
    rng = np.random.default_rng(0)
    above = [
        (rng.normal(size=2000) > calibrate(rng.normal(size=200), rate).threshold).mean()
        for _ in range(300)
    ]

    assert np.mean(above) <= rate * 1.1


def test_calibration_needs_enough_texts():
    """A rate that so few texts cannot tell is refused; ties and texts without a match are fine."""
    with pytest.raises(CalibrationTooSmall):
        calibrate([1.0] * 98, 0.01)
    with pytest.raises(ValueError, match="rate"):
        calibrate([1.0], 1.0)
    found = calibrate([float("-inf")] * 97 + [3.0, 5.0], 0.02)

    assert (3.0, 99, 1) == (found.threshold, found.num_texts, found.num_above)
