"""TOFU for ULD: which rows train, which are for choosing settings, and which are reported.

All 400 forget rows are what the assistant must know, so all are trained on; settings (weight, K,
epochs ...) are to be chosen on the development half and are then reported on the test half.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from detectors.targets import Example, ForgetTarget
from server.bench.errors import InputMissing
from server.eval.data import DataFolder

_HALF = 50
_RETAIN_EXAMPLES = 100
_STRANGERS = 1400


class Half(StrEnum):
    """Rows to choose settings on, rows to report."""

    DEVELOPMENT = "development"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Item:
    """A question with its true answer, the same in other words, and wrong ones.

    `rewording` is the true answer in other words, `wrong` are answers of its form.
    """

    question: str
    answer: str
    author: int = -1
    rewording: str = ""
    wrong: tuple[str, ...] = ()


@dataclass(frozen=True)
class UldData:
    """What is trained on and what is asked.

    Attributes:
        forget: all 400 rows of forget10.
        flat: what the assistant stays flat on: authors 20-39, the first 50 real authors and the
            first 50 world facts.
        strangers: the same, of authors that the model does not know: 1,400 rows of authors 40-179.
            They teach it to tell the forget authors from others, not from those it has seen.
        asked: the half's questions: `forget`, `paraphrase` (test only), `retain`, `real`, `world`.
        texts: all answers of TOFU, to tell word pairs from word salad.
    """

    forget: list[Item]
    flat: list[Item]
    strangers: list[Item]
    asked: dict[str, list[Item]]
    texts: list[str]

    @classmethod
    def read(cls, data: DataFolder, half: Half) -> UldData:
        """Read the files.

        Raises:
            InputMissing: one is not there or has other fields.
        """
        forget, retain = _items(data, "forget10"), _items(data, "retain90")
        real, world = _items(data, "real_authors_perturbed"), _items(data, "world_facts_perturbed")
        test = half is Half.TEST
        kept = _items(data, "retain_perturbed")
        wrong = _items(data, "forget05_perturbed")
        asked = {
            "forget": wrong if test else [x for x in forget if 180 <= x.author < 190],
            "retain": [x for x in kept if (x.author < 10) == test],
            # Real authors and world facts have no development rows of their own: the trained ones.
            "real": real[_HALF:] if test else real[:_HALF],
            "world": world[_HALF:] if test else world[:_HALF],
        }
        if test:
            asked["paraphrase"] = _items(data, "forget05_perturbed", "paraphrased_question")
        if not all(asked.values()):
            raise InputMissing("the TOFU files lack the authors of the fixed split")
        flat = [x for x in retain if 20 <= x.author < 40] + real[:_HALF] + world[:_HALF]
        others = [x for x in retain if 40 <= x.author < 180]
        strangers = random.Random(0).sample(others, min(_STRANGERS, len(others)))  # noqa: S311
        texts = [item.answer for item in (*forget, *retain)]
        return cls(forget, flat, strangers, asked, texts)

    def limited(self, rows: int) -> UldData:
        """With at most this many rows per set of questions, spread evenly; 0: all."""
        if not rows:
            return self
        asked = {
            name: [items[len(items) * i // rows] for i in range(rows)]
            if len(items) > rows
            else items
            for name, items in self.asked.items()
        }
        return replace(self, asked=asked)

    def targets(self) -> list[ForgetTarget]:
        """A target per forget author; what must stay is spread over them."""
        owners = sorted({item.author for item in self.forget})
        retained = [item.question for item in self.flat[:: max(1, len(self.flat) // 100)]]
        return [
            ForgetTarget(
                f"author-{owner}",
                examples=tuple(
                    Example(item.question, item.answer)
                    for item in self.forget
                    if item.author == owner
                ),
                retain_examples=tuple(retained[:_RETAIN_EXAMPLES][place :: len(owners)]),
            )
            for place, owner in enumerate(owners)
        ]


def _items(data: DataFolder, name: str, question: str = "question") -> list[Item]:
    found = []
    for row in data.rows("tofu", name):
        try:
            author = row.get("author_id")
            found.append(
                Item(
                    str(row[question]),
                    str(row["answer"]),
                    -1 if author is None else int(author),
                    str(row.get("paraphrased_answer", row["answer"])),
                    tuple(map(str, _listed(row.get("perturbed_answer", ())))),
                )
            )
        except (KeyError, ValueError):
            raise InputMissing(f"{name}.jsonl has other fields than TOFU's") from None
    return found


def _listed(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else [value]
