"""Rounds, their order, their checks and the report's keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from server.bench.answers import Answer
from server.bench.errors import ArmInvalid
from server.bench.figures import ArmFigures
from server.bench.serving import Arm, Measured, arm_order, check_arm, serving_figures

MakeAnswer = Callable[..., Answer]


def measured(tokens_per_second: float, ttft_ms: float, share: float | None = None) -> Measured:
    return Measured(ArmFigures(tokens_per_second, ttft_ms, 2 * ttft_ms, 3.0, 9.0, 1.0, 0.0), share)


def one_round(ratio: float, added_ms: float, speed: float) -> dict[str, Measured]:
    return {
        "unmatched_plain": measured(speed, 10.0),
        "unmatched_guarded": measured(ratio * speed, 10.0 + added_ms, 0.0),
        "matched_plain": measured(speed, 10.0),
        "matched_guarded": measured(0.5 * speed, 30.0, 1.0),
    }


class TestArmOrder:
    def test_each_round_has_every_arm_and_pairs_are_neighbours(self) -> None:
        """What the machine does meanwhile meets both arms of a pair."""
        for turn in range(8):
            order = arm_order(turn)

            assert len(set(order)) == 4
            assert order[0].traffic == order[1].traffic
            assert order[2].traffic == order[3].traffic

    def test_everyone_begins_equally_often(self) -> None:
        """Over four rounds no arm has a place of its own."""
        first = Counter(arm_order(turn)[0] for turn in range(4))

        assert set(first.values()) == {1}


class TestServingFigures:
    def test_ratios_are_paired_within_a_round(self) -> None:
        """A machine that slows down between rounds changes no ratio."""
        rounds = [one_round(0.9, 1.0, 100), one_round(0.96, 3.0, 10), one_round(0.98, 2.0, 1000)]
        figures = serving_figures(rounds)

        assert figures["unmatched_throughput_ratio"] == 0.96
        assert figures["unmatched_throughput_ratio_min"] == 0.9
        assert figures["unmatched_throughput_ratio_max"] == 0.98
        assert figures["matched_throughput_ratio"] == 0.5
        assert figures["ttft_added_ms_p50"] == 2.0
        assert figures["unmatched_plain_tokens_per_second"] == 100
        assert figures["matched_guarded_steered_share"] == 1.0

    def test_is_flat(self) -> None:
        """Every value is a number, as other tools want to read it."""
        figures = serving_figures([one_round(0.9, 1.0, 100)])

        assert all(isinstance(value, float | int) for value in figures.values())


class TestCheckArm:
    def test_good_answers_pass(self, make_answer: MakeAnswer) -> None:
        """All tokens there, nothing failed."""
        check_arm(Arm("plain", "unmatched"), [make_answer(1.0, 2.0)])

    @pytest.mark.parametrize(
        "fields", [{"failure": "status 503"}, {"tokens": 1}, {"finish_reason": "stop", "tokens": 1}]
    )
    def test_a_failure_or_a_short_answer_spoils_it(
        self, make_answer: MakeAnswer, fields: dict[str, Any]
    ) -> None:
        """Less work is not more speed."""
        answers = [make_answer(1.0, 2.0), make_answer(1.0, 2.0, **fields)]
        with pytest.raises(ArmInvalid, match="1 of 2"):
            check_arm(Arm("guarded", "matched"), answers)

    def test_only_the_guard_may_cut_and_only_matched_answers(self, make_answer: MakeAnswer) -> None:
        """Elsewhere a cut answer is a fault."""
        cut = [make_answer(1.0, finish_reason="content_filter")]
        check_arm(Arm("guarded", "matched"), cut)
        with pytest.raises(ArmInvalid):
            check_arm(Arm("guarded", "unmatched"), cut)
        with pytest.raises(ArmInvalid):
            check_arm(Arm("plain", "matched"), cut)

    def test_few_unmatched_answers_may_say_a_name(self, make_answer: MakeAnswer) -> None:
        """One of fifty, and of plain vLLM none."""
        ended = make_answer(finish_reason="content_filter", failure="no text", tokens=1)
        answers = [*(make_answer(1.0, 2.0) for _ in range(49)), ended]
        check_arm(Arm("guarded", "unmatched"), answers)
        with pytest.raises(ArmInvalid):
            check_arm(Arm("plain", "unmatched"), answers)
        with pytest.raises(ArmInvalid):
            check_arm(Arm("guarded", "unmatched"), [*answers, ended])
