"""Edited copies of a passage: what a model makes of a text that it knows, if asked.

After Ippolito et al. (arXiv 2210.17546): a check for verbatim copies is passed by small changes of
style. All edits are deterministic for a seed; a word is a run of characters without white space.
"""

from __future__ import annotations

import random
import re
import textwrap
from collections.abc import Callable, Mapping

from detectors.benign import benign_answers

Edit = Callable[[str, random.Random], str]

_TYPOGRAPHY = str.maketrans({"'": "’", '"': "”", "-": "–", " ": "\u00a0"})
_WIDE = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_LEET = str.maketrans("aeiost", "431057")


def _as_it_is(text: str, _chance: random.Random) -> str:
    return text


def _upper(text: str, _chance: random.Random) -> str:
    return text.upper()


def _wrapped(text: str, _chance: random.Random) -> str:
    return textwrap.fill(text, 40)


def _typographic(text: str, _chance: random.Random) -> str:
    return text.translate(_TYPOGRAPHY)


def _full_width(text: str, _chance: random.Random) -> str:
    return text.translate(_WIDE)


def _unpunctuated(text: str, _chance: random.Random) -> str:
    return re.sub(r"[^\w\s]", "", text)


def _leet(text: str, _chance: random.Random) -> str:
    return text.translate(_LEET)


def _reordered(text: str, chance: random.Random) -> str:
    sentences = _SENTENCE.split(text)
    chance.shuffle(sentences)
    return " ".join(sentences)


def _dropped(text: str, chance: random.Random) -> str:
    return " ".join(word for word in text.split() if chance.random() >= 0.1)


def _changed(every: int) -> Edit:
    """One word in `every` on average is another one, at random places."""

    def edit(text: str, chance: random.Random) -> str:
        others = benign_answers()[0].split()
        return " ".join(
            chance.choice(others) if chance.random() < 1 / every else word for word in text.split()
        )

    return edit


def _interrupted(every: int) -> Edit:
    """A filler word behind every `every` words: the worst case for a minimum of more than that."""

    def edit(text: str, _chance: random.Random) -> str:
        words = text.split()
        parts = (" ".join(words[at : at + every]) for at in range(0, len(words), every))
        return " well ".join(parts)

    return edit


EDITS: Mapping[str, Edit] = {
    "verbatim": _as_it_is,
    "upper_case": _upper,
    "rewrapped": _wrapped,
    "typographic": _typographic,
    "full_width": _full_width,
    "unpunctuated": _unpunctuated,
    "sentences_reordered": _reordered,
    "one_word_in_twenty_changed": _changed(20),
    "one_word_in_ten_changed": _changed(10),
    "one_word_in_five_changed": _changed(5),
    "one_word_in_ten_dropped": _dropped,
    "filler_every_seven_words": _interrupted(7),
    "leet": _leet,
}
