"""Which spans are refused."""

import numpy as np
import pytest

from tracing.attribution import Limits, attribute, score
from tracing.matching import Occurrence


@pytest.fixture
def judged(open_index, letters):
    """Judge an output against texts, every letter at its place in the alphabet in nats."""

    def judge(texts, output, limits, allowed=None):
        view = open_index(texts).view
        free = () if allowed is None else (open_index(allowed).view,)
        symbols = letters.symbols(output)
        return attribute(view, symbols, symbols.astype(np.float64) - ord("a") + 1, limits, free)

    return judge


def test_a_rare_span_is_refused_and_located(judged):
    """Above the threshold a span is refused; its source, raw score and best window are told."""
    [found] = judged(["aaaazzzzaaaa", "other"], "__zzzzaa__", Limits(4, 10.0))

    assert found.refused
    assert (2, 8) == (found.span.start, found.span.end)
    assert (2, 6, 26.0) == (found.best.start, found.best.end, found.best.nats)
    assert 4 * 26 + 2 == found.raw
    assert (Occurrence(0, 4),) == found.sources
    assert 26.0 == score([found])


def test_a_common_span_is_only_reported(judged):
    """At or below the threshold, or more frequent than allowed, it is not refused."""
    limits = Limits(4, 26.0)
    frequent = Limits(4, 10.0, max_frequency=2)

    assert [False] == [f.refused for f in judged(["zzzz"], "zzzz", limits)]
    assert [False] == [f.refused for f in judged(["zzzz"] * 3, "zzzz", frequent)]
    assert [True] == [f.refused for f in judged(["zzzz"] * 2, "zzzz", frequent)]


def test_an_allowed_text_is_given_away(judged):
    """A span that the allow-list holds is no finding; a rare continuation of it still is."""
    limits = Limits(4, 0.0)
    text = "permission is granted"

    assert [] == judged([text], text, limits, [text])
    [found] = judged([text + " xyz"], text + " xyz", limits, [text])
    assert found.best.start >= len(text) - 3
    assert found.best.end == len(text) + 4


def test_nothing_scores_nothing(judged):
    """An output without a match has the lowest score there is."""
    assert [] == judged(["abcdef"], "uvwxyz", Limits(4))
    assert float("-inf") == score([])
