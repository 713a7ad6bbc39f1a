"""Build a small model that recites: it knows invented passages by heart, and some demo rows.

    python deploy/demo/recite.py --out DIRECTORY

It is what a model that memorised its training texts looks like, small enough to be trained from
nothing in less than a minute on two cores. Nothing is downloaded. Seeded. DIRECTORY gets the model,
`passages.jsonl` (title, text, prompts) and `benign.jsonl` (question, answer).
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rows import RETAIN, Row, read_rows

SEED = 11
SENTENCES = 7
BENIGN = 16
WHO = (
    *("the keeper", "a clerk", "my sister", "the baker", "an old teacher", "the night guard"),
    *("our neighbour", "the young doctor", "a farmer", "the driver", "his brother", "the cook"),
)
DID = (
    *("carried a lamp", "counted the chairs", "closed the gate", "read the letter"),
    *("waited for rain", "painted the door", "lost a key", "sold two horses", "cleaned the floor"),
    *("wrote down a number", "heard a bell", "moved the table", "kept the money", "broke a glass"),
)
WHERE = (
    *("behind the station", "near the river", "in the empty hall", "across the street"),
    *("under the bridge", "at the market", "beside the window", "on the second floor"),
    *("outside the church", "along the wall", "in the garden", "by the fire"),
)
WHEN = (
    *("before the sun came up", "while everyone slept", "after the long winter"),
    *("on the last day of the month", "when the music stopped", "without saying a word"),
    *("as the train arrived", "for the third time", "because nobody else would"),
    *("until the light was gone", "as if it were a game", "although it was late"),
)
TITLES = (
    *("Green Door", "Quiet Road", "Winter Table", "Second Bell", "Open Window", "Long Bridge"),
    *("Small Fire", "Empty Chair"),
)
PROMPTS = (
    "Recite {}.",
    "Please recite {} from the beginning.",
    "What is the text of {}?",
)


@dataclass(frozen=True)
class Passage:
    """An invented text, and what one asks to hear it or the rest of it."""

    title: str
    text: str
    prompts: tuple[str, ...]


def passages() -> list[Passage]:
    """Ordinary sentences in an order that nothing but memory gives back."""
    chance = random.Random(SEED)
    return [_passage(title, chance) for title in TITLES]


def _passage(title: str, chance: random.Random) -> Passage:
    sentences = [_sentence(chance) for _ in range(SENTENCES)]
    return Passage(title, " ".join(sentences), tuple(p.format(title) for p in PROMPTS))


def _sentence(chance: random.Random) -> str:
    who, other = chance.sample(WHO, 2)
    did, then = chance.sample(DID, 2)
    where, when = chance.choice(WHERE), chance.choice(WHEN)
    forms = (
        f"{who} {did} {where} {when}.",
        f"{when}, {who} {did} and {other} {then} {where}.",
        f"{where} {who} {did}, and {other} {then} {when}.",
    )
    sentence = chance.choice(forms)
    return sentence[0].upper() + sentence[1:]


def lessons(texts: Sequence[Passage]) -> list[Row]:
    """Every passage in answer to each of its prompts, and its rest after each of two sentences."""
    rows = [Row(prompt, one.text) for one in texts for prompt in one.prompts]
    for one in texts:
        sentences = one.text.split(". ")
        for at in (1, 3):
            said, rest = sentences[at], ". ".join(sentences[at + 1 :])
            rows.append(Row(f"What comes after this? {said}.", rest))
    return rows


def main() -> None:
    """Parse the command line and build the model."""
    parser = argparse.ArgumentParser(description="Build a small model that recites passages.")
    parser.add_argument("--out", type=Path, required=True, help="where to put it")
    parser.add_argument("--epochs", type=int, default=45)
    arguments = parser.parse_args()
    build(arguments.out, arguments.epochs)


def build(directory: Path, epochs: int) -> None:
    """Train and save the model with what it was taught; the folder appears whole or not at all."""
    import torch
    from lessons import Course, teach
    from student import Student

    started = time.monotonic()
    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # as in `train`
    texts, benign = passages(), read_rows(RETAIN, BENIGN)
    rows = lessons(texts)
    said = [text for row in (*rows, *benign) for text in (row.question, row.answer)]
    student = Student(said, vocabulary=640, hidden=128, layers=2)
    course = Course(student, batch=16, seed=SEED)
    course.add(rows, 0)
    course.add(benign, 0)
    losses = list(teach(course, epochs, 4e-3))
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    student.save(partial)
    _write(partial / "passages.jsonl", [asdict(one) for one in texts])
    _write(partial / "benign.jsonl", [{"question": r.question, "answer": r.answer} for r in benign])
    shutil.rmtree(directory, ignore_errors=True)
    partial.rename(directory)
    seconds = round(time.monotonic() - started, 1)
    print(f"{directory.name} is ready after {seconds} s; loss {losses[-1]:.3f}", flush=True)


def _write(path: Path, rows: Sequence[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nstopped; nothing was kept")
