"""The arithmetic of the benches."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.bench.answers import Answer
from server.bench.figures import (
    Window,
    arm_figures,
    failed_requests,
    longest_gap_ms,
    longest_ttft_ms,
    spread,
)

MakeAnswer = Callable[..., Answer]


class TestArmFigures:
    def test_throughput_counts_from_the_first_request_to_the_last_answer(
        self, make_answer: MakeAnswer
    ) -> None:
        """Tokens that overlap in time share it."""
        first = make_answer(0.5, 1.0, 1.5, 2.0)
        second = make_answer(2.0, 4.0, sent=1.0)
        figures = arm_figures([first, second])

        assert figures.tokens_per_second == pytest.approx(6 / 4)
        assert figures.ttft_ms_p50 == pytest.approx(750)
        assert figures.inter_token_ms_p50 == pytest.approx(500)
        assert figures.inter_token_ms_p99 > 1900

    def test_bunches_and_cuts_are_told(self, make_answer: MakeAnswer) -> None:
        """Four tokens in two events are half an event per token."""
        cut = make_answer(1.0, 2.0, tokens=4, finish_reason="content_filter")
        figures = arm_figures([cut, make_answer(1.0, 2.0, tokens=4)])

        assert figures.events_per_token == 0.5
        assert figures.cut_share == 0.5


class TestSpread:
    @given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=9))
    def test_the_median_lies_between_the_extremes(self, values: list[float]) -> None:
        """Also after rounding."""
        found = spread("x", values)

        assert found["x_min"] <= found["x"] <= found["x_max"]


class TestWindows:
    def test_a_gap_that_only_touches_the_window_counts_in_full(
        self, make_answer: MakeAnswer
    ) -> None:
        """A stall that began just before the registration is still one."""
        answers = [make_answer(1.0, 4.0, 4.5), make_answer(7.0, 7.1)]

        assert longest_gap_ms(answers, Window(3.0, 5.0)) == pytest.approx(3000)
        assert longest_gap_ms(answers, Window(4.2, 5.0)) == pytest.approx(500)

    def test_no_tokens_no_gap(self, make_answer: MakeAnswer) -> None:
        """Zero says that nothing was streamed."""
        assert longest_gap_ms([make_answer(1.0)], Window(0.0, 5.0)) == 0
        assert longest_gap_ms([], Window(0.0, 5.0)) == 0

    def test_first_tokens_are_waits_too(self, make_answer: MakeAnswer) -> None:
        """A request that stalls before its first token has no gap, only a long start."""
        answers = [make_answer(2.0, 2.1), make_answer(8.0, sent=7.0)]

        assert longest_ttft_ms(answers, Window(1.0, 3.0)) == pytest.approx(2000)
        assert longest_ttft_ms(answers, Window(4.0, 6.0)) == 0

    def test_failures_count_where_the_request_was_running(self, make_answer: MakeAnswer) -> None:
        """One that failed earlier is not the registration's fault."""
        answers = [
            make_answer(ended=1.0, failure="status 500"),
            make_answer(ended=5.0, failure="status 500"),
            make_answer(3.0),
        ]

        assert failed_requests(answers, Window(2.0, 6.0)) == 1
