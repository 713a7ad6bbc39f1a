"""What repetitions and streams say about a registration, and the target that is invented for it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from server.bench.answers import Answer
from server.bench.errors import ArmInvalid
from server.bench.figures import Window
from server.bench.invented import invented_target
from server.bench.registration import Repetition, registration_figures
from server.schemas import TargetIn

MakeAnswer = Callable[..., Answer]


class TestRegistrationFigures:
    def test_each_window_has_its_own_gap(self, make_answer: MakeAnswer) -> None:
        """Registration, withdrawal and the quiet time afterwards are told apart."""
        repetition = Repetition(Window(0.0, 4.0), Window(4.0, 5.0), Window(6.0, 10.0))
        answers = [make_answer(1.0, 3.0), make_answer(4.1, 4.2), make_answer(7.0, 7.5)]
        answers += [make_answer(ended=2.0, failure="status 503")]
        figures = registration_figures([repetition], answers)

        assert figures["registration_s"] == 4
        assert figures["withdrawal_s"] == 1
        assert figures["longest_gap_ms"] == 2000
        assert figures["withdrawal_longest_gap_ms"] == 100
        assert figures["baseline_longest_gap_ms"] == 500
        assert (figures["failed_requests"], figures["requests_total"]) == (1, 4)

    def test_a_window_without_tokens_says_nothing(self, make_answer: MakeAnswer) -> None:
        """No gap because there was no stream is not a short gap."""
        repetition = Repetition(Window(0.0, 4.0), Window(4.0, 5.0), Window(6.0, 10.0))
        with pytest.raises(ArmInvalid):
            registration_figures([repetition], [make_answer(1.0, 3.0)])


class TestInventedTarget:
    def test_is_a_target_of_so_many_pairs(self) -> None:
        """As the admin API takes it; the pairs differ."""
        target = TargetIn.model_validate_json(invented_target("bench-1", 400, seed=1))

        assert len({(e.prompt, e.answer) for e in target.examples}) == 400
        assert len({e.prompt for e in target.examples}) == 400
        assert len(target.aliases) == 20

    def test_is_the_same_every_time_and_another_for_each_seed(self) -> None:
        """A repetition must not find the last one's embeddings."""
        first, again = (json.loads(invented_target("t", 40, seed=1)) for _ in range(2))
        other = json.loads(invented_target("t", 40, seed=2))

        assert first == again
        assert not {e["prompt"] for e in first["examples"]} & {
            e["prompt"] for e in other["examples"]
        }
