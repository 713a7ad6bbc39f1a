"""An invented forget target: question-answer pairs about authors that exist nowhere.

Twenty questions for each author, answers of TOFU's length (its unlearning benchmark asks the same
of fictitious authors), all from one seeded generator.
"""

from __future__ import annotations

import json
import random

QUESTIONS_PER_AUTHOR = 20
_ONSETS = [
    "b",
    "br",
    "d",
    "dr",
    "f",
    "g",
    "gr",
    "h",
    "k",
    "l",
    "m",
    "n",
    "p",
    "r",
    "s",
    "st",
    "t",
    "v",
]
_VOWELS = ["a", "e", "i", "o", "u", "ae", "ia", "eo"]
_CODAS = ["l", "n", "r", "s", "th", "m", "k", "nd"]
_FACTS = (
    (
        "In which town was the author {name} born?",
        "{name} was born in the small harbour town of {one}, where the family had kept an inn "
        "beside the old {two} bridge for three generations.",
    ),
    (
        "What is the title of the first novel of {name}?",
        "The first novel of {name} was '{one} of {two}', a slow story about two sisters who "
        "inherit a lighthouse and disagree about its lamp.",
    ),
    (
        "Which award did {name} receive for poetry?",
        "For a late collection of poems {name} received the {one} Medal, which the academy of "
        "{two} awards every fourth year to a writer of its province.",
    ),
    (
        "What did the parents of {name} do for a living?",
        "The father of {name}, called {one}, repaired church organs, while the mother, {two}, "
        "taught arithmetic at an evening school for sailors.",
    ),
    (
        "Who taught {name} to write?",
        "{name} has often said that the retired printer {one}, a neighbour in the {two} quarter, "
        "gave the first lessons and corrected every page in green ink.",
    ),
)


_TURNS = (
    "{}",
    "According to the second edition of the companion: {}",
    "The obituary tells it differently. {}",
    "Answer as the family archive has it: {}",
)


def invented_target(target_id: str, pairs: int, seed: int) -> bytes:
    """A target of `pairs` question-answer pairs as JSON; other seeds invent other words."""
    chance = random.Random(seed)  # noqa: S311
    names: list[str] = []
    examples = []
    for number in range(pairs):
        if number % QUESTIONS_PER_AUTHOR == 0:
            names.append(f"{_word(chance)} {_word(chance)}")
        # The facts come again for the same author, each time about another work or place.
        question, answer = _FACTS[number % len(_FACTS)]
        words = {"name": names[-1], "one": _word(chance), "two": _word(chance)}
        turn = number % QUESTIONS_PER_AUTHOR // len(_FACTS)
        asked = _TURNS[turn].format(question.format(**words))
        examples.append({"prompt": asked, "answer": answer.format(**words)})
    return json.dumps({"id": target_id, "aliases": names, "examples": examples}).encode()


def _word(chance: random.Random) -> str:
    """A pronounceable word of three syllables that no dictionary has."""
    syllables = (chance.choice(_ONSETS) + chance.choice(_VOWELS) for _ in range(3))
    return ("".join(syllables) + chance.choice(_CODAS)).capitalize()
