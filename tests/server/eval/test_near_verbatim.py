"""Edited copies: the edits themselves, and what the evaluation says of known cases."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from rich.progress import Progress

from server.bench.errors import InputMissing
from server.eval.edits import EDITS
from server.eval.near_verbatim import NearVerbatimPlan, eval_near_verbatim

SENTENCES = (
    "In the winter of 1731 the clockmaker {0} walked from Harrowgate to the coast with a borrowed "
    "mule and eleven unfinished clocks.",
    "Nobody in the family had seen the sea, and the letters which {0} sent home describe it at "
    "length, mostly its smell.",
    "It took {0} nine days, two of which were lost to a quarrel about the price of hay.",
    "The last of them, which the museum of Brindlewick bought in 1904, ends in the middle.",
)
NAMES = ("Oswin Talbrecht", "Perpetua Quillon", "Ignatz Borrowmere", "Sunniva Aldergate")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with four passages; the second half is never registered."""
    (tmp_path / "tofu").mkdir()
    (tmp_path / "rwku").mkdir()
    (tmp_path / "tofu" / "forget10.jsonl").write_text("")
    other = "A quite different life: {0} sold umbrellas, married twice and wrote no letters."
    rows = [
        {
            "question": "?",
            "answer": (SENTENCES[at] if n < 2 else other).format(name),
            "author_id": n,
        }
        for n, name in enumerate(NAMES)
        for at in range(4)
    ]
    lines = "\n".join(json.dumps(row) for row in rows)
    (tmp_path / "tofu" / "retain90.jsonl").write_text(lines)
    return tmp_path


def test_edits_change_what_they_say() -> None:
    """An edit leaves the words it does not speak of alone, and repeats itself for a seed."""
    text = " ".join(f"word{n}" for n in range(400)) + "."
    made = {name: edit(text, random.Random(3)) for name, edit in EDITS.items()}

    assert made == {name: edit(text, random.Random(3)) for name, edit in EDITS.items()}
    assert made["verbatim"] == text
    assert made["rewrapped"].split() == text.split()
    changed = made["one_word_in_ten_changed"].split()
    assert 20 < sum(a != b for a, b in zip(changed, text.split(), strict=True)) < 60
    assert 340 < len(made["one_word_in_ten_dropped"].split()) < 380
    assert made["filler_every_seven_words"].split()[7] == "well"


def test_what_each_layer_stops(data: Path) -> None:
    """What folding undoes is stopped by words, not by tokens; changed words by neither."""
    plan = NearVerbatimPlan(data, vocabulary="byte_level")
    with Progress(disable=True) as progress:
        found: dict[str, Any] = eval_near_verbatim(plan, progress)

    assert found["passages"] == 2
    for form in ("verbatim", "upper_case", "rewrapped", "typographic", "full_width"):
        assert found[f"words_caught_{form}"] == 1
        assert found[f"words_shown_{form}"] < 0.1
    assert found["veto_caught_verbatim"] == 1
    assert found["veto_caught_upper_case"] == 0
    assert found["words_caught_filler_every_seven_words"] == 0
    assert found["words_shown_filler_every_seven_words"] == 1
    assert found["phrases_caught_verbatim"] == 1
    assert found["forms_caught_one_word_in_five_changed"] == 1
    assert found["false_positive"] == 0


def test_missing_data(tmp_path: Path) -> None:
    """Without the data it says so."""
    with pytest.raises(InputMissing), Progress(disable=True) as progress:
        eval_near_verbatim(NearVerbatimPlan(tmp_path), progress)
