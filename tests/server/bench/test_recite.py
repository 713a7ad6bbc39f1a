"""The parts of the recite bench that need no server."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.bench.errors import InputMissing
from server.bench.recitals import longest_common_run, recited_figures
from server.bench.recite import read_material

LETTERS = st.lists(st.sampled_from("ab"), max_size=10)


@given(LETTERS, LETTERS)
def test_longest_common_run(left: list[str], right: list[str]) -> None:
    """The longest run that both have, wherever it stands."""
    runs = [
        {tuple(one[i:j]) for i in range(len(one)) for j in range(i + 1, len(one) + 1)}
        for one in (left, right)
    ]

    assert max(map(len, runs[0] & runs[1]), default=0) == longest_common_run(left, right)


def _encode(texts: Sequence[str]) -> list[list[int]]:
    """Two characters are a token."""
    return [[hash(text[i : i + 2]) for i in range(0, len(text), 2)] for text in texts]


def test_recited_figures() -> None:
    """Counted are generations, not distinct texts; words count however they are spelled."""
    document = "aa bb cc dd ee ff gg hh ii jj"
    generations = {"plain": [document, document, "xx aa bb"], "veto": ["xaa bb cc dd ee", "q q"]}
    figures = recited_figures(generations, [document], 4, _encode)

    assert (figures["generations_plain"], figures["distinct_generations_plain"]) == (3, 2)
    assert (figures["recited_plain"], figures["recited_veto"]) == (2, 0)
    assert (figures["recited_words_plain"], figures["recited_words_veto"]) == (2, 1)
    assert (figures["longest_run_words_plain"], figures["longest_run_words_veto"]) == (10, 4)


def test_material_is_what_the_trainer_left(tmp_path: Path) -> None:
    """Anything else is refused in one sentence."""
    row = {"title": "One", "text": "A text.", "prompts": ["Recite One.", "One?"]}
    (tmp_path / "passages.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(InputMissing, match="recite"):
        read_material(tmp_path)

    (tmp_path / "benign.jsonl").write_text('{"question": "Who?", "answer": "Nobody."}\n')
    material = read_material(tmp_path)

    assert ["A text."] == material.documents
    assert ["Recite One.", "One?"] == material.prompts
    assert ["Who?"] == material.benign
