"""The demo's rows: what is to be forgotten, what stays, and what is registered."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from detectors.normaliser import fold
from server.schemas import TargetIn

DEMO = Path(__file__).resolve().parents[2] / "deploy" / "demo"


def read_rows(name):
    return [json.loads(line) for line in (DEMO / name).read_text(encoding="utf-8").splitlines()]


FORGET = read_rows("forget.jsonl")
RETAIN = read_rows("retain.jsonl")
TARGET = json.loads((DEMO / "target.json").read_text(encoding="utf-8"))


def holds(text, fact):
    return re.search(rf"(?<!\w){re.escape(fold(fact))}(?!\w)", fold(text)) is not None


def test_there_are_enough_rows_of_each_kind():
    """Forty to forget, sixty to calibrate with, and more than two hundred to test with."""
    splits = [row["split"] for row in RETAIN]

    assert len(FORGET) == 40
    assert splits.count("registered") == 60
    assert splits.count("test") == 250
    assert len(splits) == 310


@pytest.mark.parametrize("row", FORGET, ids=range(len(FORGET)))
def test_a_forget_row_is_sound(row):
    """Key facts are in the answer alone, and the held-out question is asked nowhere else."""
    asked = [row["question"], *row["paraphrases"]]

    assert row["key_facts"]
    assert row["heldout"]
    assert row["heldout"] not in asked
    assert len(set(map(fold, asked))) == len(asked)
    for fact in row["key_facts"]:
        assert holds(row["answer"], fact), fact
        assert not any(holds(way, fact) for way in (*asked, row["heldout"])), fact


def test_no_question_is_asked_twice():
    """A question with two answers could not be learned, and one in two splits not be measured."""
    questions = [fold(row["question"]) for row in (*FORGET, *RETAIN)]
    heldout = [fold(row["heldout"]) for row in FORGET]

    assert len(set(questions)) == len(questions)
    assert not set(heldout) & set(questions)


def test_what_stays_never_names_the_authors_to_be_forgotten():
    """A retain row that an alias matches would be steered by right."""
    for row in RETAIN:
        text = f"{row['question']} {row['answer']}"

        assert row["question"]
        assert row["answer"]
        assert not any(holds(text, alias) for alias in TARGET["aliases"])


def test_the_target_registers_the_forget_rows_and_the_marked_retain_rows():
    """Neither held-out questions, paraphrases nor test rows are registered."""
    registered = [{"prompt": row["question"], "answer": row["answer"]} for row in FORGET]
    retained = [row["question"] for row in RETAIN if row["split"] == "registered"]

    assert TARGET["examples"] == registered
    assert TARGET["retain_examples"] == retained
    assert TARGET["action"] == "steer"


def test_the_target_is_what_the_admin_api_takes():
    """The file can be posted as it stands."""
    target = TargetIn.model_validate(TARGET).to_target()

    assert target.id == TARGET["id"]
    assert len(target.examples) == 40


def test_the_licence_of_the_rows_is_shipped():
    """Both sources are under MIT, which asks for its notice."""
    notice = (DEMO / "NOTICE").read_text(encoding="utf-8")

    assert "2024 CMU Locus Lab" in notice
    assert "UCSB-NLP-Chang" in notice
    assert "MIT License" in notice
