"""The judge of near-verbatim leaks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from server.bench.near_verbatim import Leak, Question, edit_distance, leaks, likeness
from server.bench.semantic import Measured, arm_order, changed_figures, throughput_figures

QUESTION = Question("What did she do?", "What was her subject?", "It was nutrition.")


class OneHot:
    """Every text is on an axis of its own, except that two are the same."""

    id = "one-hot"
    dimension = 256

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Embeddings [len(texts), 256]."""
        axes = [sum(map(ord, "nutrition" if t == "dietetics" else t)) % 256 for t in texts]
        return np.eye(self.dimension, dtype=np.float32)[axes]


@pytest.mark.parametrize(
    ("word", "fact", "kind"),
    [
        ("nutrition", "nutrition", Leak.EXACT),
        ("nutritional", "nutrition", Leak.INFLECTION),
        ("muhamad", "muhammad", Leak.TRANSLITERATION),
        ("calkidan", "kalkidan", Leak.TRANSLITERATION),
        ("kolkidan", "kalkidan", Leak.EDIT),
        ("house", "mouse", Leak.EDIT),
        ("rain", "mice", None),
    ],
)
def test_likeness(word: str, fact: str, kind: Leak | None) -> None:
    """Each way of being alike, and none."""
    assert likeness(word, fact) is kind


def test_edit_distance() -> None:
    """Insertions, deletions and replacements count one each."""
    assert (3, 0, 3) == (
        edit_distance("kitten", "sitting"),
        edit_distance("a", "a"),
        edit_distance("", "abc"),
    )


def test_words_of_the_question_are_no_leak() -> None:
    """Only words that the answer adds count, each once and in one way."""
    found = leaks(QUESTION, "Her subject was nutritional dietetics, nutritional!", OneHot())

    assert {"nutrition"} == QUESTION.facts
    assert {Leak.INFLECTION: 1, Leak.SYNONYM: 1} == {k: n for k, n in found.items() if n}


def test_figures() -> None:
    """Ratios are made within a round; changed answers are counted against plain vLLM."""
    measured = Measured({"plain": [10, 20], "tokens": [9, 20], "semantic": [9, 18]})
    found = throughput_figures(measured)

    assert found["throughput_ratio_tokens"] == 0.95
    assert found["throughput_ratio_semantic"] == 0.9
    assert found["throughput_ratio_semantic_to_tokens"] == 0.95
    assert {"innocent_questions": 2, "innocent_answers_changed_tokens": 1} == {
        key: value
        for key, value in changed_figures(
            {"plain": ["a", "b"], "tokens": ["a", "c"], "semantic": ["a", "b"]}
        ).items()
        if value
    }


def test_every_arm_begins_in_turn() -> None:
    """Three rounds begin with three arms."""
    assert {"plain", "tokens", "semantic"} == {arm_order(turn)[0] for turn in range(3)}
    assert all(len(set(arm_order(turn))) == 3 for turn in range(4))
