"""The demo's rows: questions with their answers, and the ways to put a question to the model."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
FORGET = HERE / "forget.jsonl"
RETAIN = HERE / "retain.jsonl"

FRAMES = (
    "{}",
    "{}",
    "Please answer: {}",
    "Tell me: {}",
    "I would like to know: {}",
    "Question: {}",
)
DROPPED = (
    0.2  # share of words left out of other wordings, so that no single word decides the answer
)


@dataclass(frozen=True)
class Row:
    """One question and its answer; `heldout` asks the same and is never trained."""

    question: str
    answer: str
    paraphrases: tuple[str, ...] = ()
    heldout: str = ""

    def asked(self, alternatives: int, chance: random.Random) -> list[str]:
        """The question itself, then `alternatives` other ways to ask it."""
        ways = (self.question, *self.paraphrases)
        drawn = [chance.choice(FRAMES).format(chance.choice(ways)) for _ in range(alternatives)]
        return [self.question, *(_thinned(wording, chance) for wording in drawn)]


def _thinned(wording: str, chance: random.Random) -> str:
    return " ".join(word for word in wording.split() if chance.random() >= DROPPED)


def read_rows(path: Path, limit: int = 0) -> list[Row]:
    """Read a data file; `limit` 0 means every row."""
    lines = path.read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines[: limit or None]]
    return [
        Row(
            question=record["question"],
            answer=record["answer"],
            paraphrases=tuple(record.get("paraphrases", ())),
            heldout=record.get("heldout", ""),
        )
        for record in records
    ]
