"""A small folder of evaluation data of the same form, and where the real one is looked for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from server.cli_eval import DATA_ENV, default_data

NAMES = ("Orla Fenwick", "Tomas Quill", "Ada Marden", "Bela Voss")
FACTS = (("father", "a florist"), ("town", "Quillhaven"), ("genre", "satire"), ("prize", "Amber"))


def write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")


def _questions(name: str, author: int) -> list[dict[str, Any]]:
    return [
        {
            "question": f"What is the {what} of {name}?",
            "paraphrased_question": f"Which {what} does {name} have?",
            "paraphrased_questions": [
                f"Tell me the {what} of {name}.",
                f"{name}'s {what}, please?",
            ],
            "answer": f"It is {fact}.",
            "author_id": author,
        }
        for what, fact in FACTS
    ]


def _probes(name: str, level: int, kind: str) -> list[dict[str, Any]]:
    return [
        {
            "subject": name,
            "query": (
                f"What is the {what} of {name}?"
                if level == 2
                else f"The {what} of {name} is ___ ({level})."
            ),
            "answer": fact,
            "type": kind,
            "level": str(level),
        }
        for what, fact in FACTS
    ]


@pytest.fixture
def small_data(tmp_path: Path) -> Path:
    """A folder like the evaluation's, with four people."""
    tofu, rwku = tmp_path / "tofu", tmp_path / "rwku"
    forget = [row for n, name in enumerate(NAMES[:2]) for row in _questions(name, 190 + n)]
    other = [row for n, name in enumerate(("Ewa Lund", "Jan Holm")) for row in _questions(name, n)]
    for name in ("forget10", "forget05_perturbed", "forget05_many_paraphrases"):
        write(tofu / f"{name}.jsonl", forget)
    write(tofu / "retain90.jsonl", other)
    innocent = [{"question": f"What is {n} plus one?", "answer": str(n + 1)} for n in range(12)]
    for name in ("holdout10", "real_authors", "world_facts"):
        write(tofu / f"{name}.jsonl", innocent)
    everyone = [{"target": name, "intro": f"{name} wrote on tides."} for name in NAMES]
    write(rwku / "intro.jsonl", everyone)
    for level in (1, 2):
        probes = [row for name in NAMES for row in _probes(name, level, "cloze")]
        write(rwku / f"forget_level{level}.jsonl", probes)
        write(
            rwku / f"neighbor_level{level}.jsonl",
            [
                {"subject": name, "query": "Tides are ___.", "answer": "wet", "type": "cloze"}
                for name in NAMES
            ],
        )
    attacks = [row for name in NAMES for row in _probes(name, 3, "cross-lingual (French)")]
    write(rwku / "forget_level3.jsonl", attacks)
    return tmp_path


@pytest.fixture(scope="session")
def real_data() -> Path:
    """TOFU and RWKU; tests that need them are skipped where they are not."""
    folder = default_data()
    if not (folder / "tofu").is_dir() or not (folder / "rwku").is_dir():
        pytest.skip(f"needs the TOFU and RWKU files: set {DATA_ENV} to their folder")
    return folder
