"""Invented phrases in bulk, and the many ways to spell one: as text, as bytes, as tokens."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache

_HEADS = (*"bcdfghklmnprstvwz", "br", "cr", "dr", "fl", "gr", "kl", "pr", "st", "tr", "th", "sh")
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ea", "ou")
_ENDS = ("", "n", "r", "s", "th", "ck", "ll", "nd", "x", "ford", "worth", "man", "son", "ley")
_LONGEST = 16
_LOOK_ALIKES = str.maketrans("aceopxyAOE", "асеорхуАОЕ")
_FULL_WIDTH = str.maketrans({chr(c): chr(c + 0xFEE0) for c in range(0x21, 0x7F)})


def invented_phrases(count: int, seed: int = 0) -> list[str]:
    """Distinct phrases like those of forget targets, in random order.

    Half are full names; the others titles, two-word terms, a possession with its owner, dates and
    long single words.
    """
    rng = random.Random(seed)  # noqa: S311
    found: dict[str, None] = {}
    while len(found) < count:
        found[_phrase(rng)] = None
    return list(found)


def _phrase(rng: random.Random) -> str:
    words, kind = common_words(), rng.random()
    if kind < 0.5:
        return f"{_name(rng)} {_name(rng)}"
    if kind < 0.7:
        return "The " + " ".join(rng.choice(words).capitalize() for _ in range(rng.randint(2, 4)))
    if kind < 0.83:
        return f"{rng.choice(words)} {rng.choice(words)}"
    if kind < 0.93:
        return f"{_name(rng)}'s {rng.choice(words)}"
    if kind < 0.95:
        return f"{rng.choice(('May', 'June', 'July'))} {rng.randint(1, 31)}, {rng.randint(1, 2030)}"
    return _name(rng) + _name(rng).lower()


def _name(rng: random.Random) -> str:
    syllables = (rng.choice(_HEADS) + rng.choice(_VOWELS) for _ in range(rng.choice((1, 2, 2, 3))))
    return ("".join(syllables) + rng.choice(_ENDS)).capitalize()


@cache
def common_words() -> list[str]:
    """Frequent English words, without the most frequent."""
    from wordfreq import top_n_list

    return [word for word in top_n_list("en", 20_000)[500:] if word.isascii()]


def _accented(text: str) -> str:
    return "".join(c + "\u0301" if c in "aeiou" else c for c in text)


_SPELLINGS: dict[str, Callable[[str], str]] = {
    "as_is": str,
    "leading_space": lambda text: f" {text}",
    "lower": str.lower,
    "upper": str.upper,
    "capitals": str.title,
    "full_width": lambda text: text.translate(_FULL_WIDTH),
    "look_alikes": lambda text: text.translate(_LOOK_ALIKES),
    "accents": _accented,
    "composed": lambda text: unicodedata.normalize("NFC", _accented(text)),
    "zero_width": lambda text: "\u200b".join(text),
    "soft_hyphen": lambda text: text[:2] + "\u00ad" + text[2:],
    "line_break": lambda text: text.replace(" ", "\n  "),
    "no_break_space": lambda text: text.replace(" ", "\u00a0"),
    "quotes": lambda text: text.replace("'", "\u2019"),
}


def spellings(text: str) -> list[str]:
    """One spelling of each kind of the declared set (`detectors.normaliser`), without doubles."""
    return list(dict.fromkeys(spell(text) for spell in _SPELLINGS.values()))


def random_spelling(text: str, rng: random.Random) -> str:
    """One of `spellings`."""
    return rng.choice(tuple(_SPELLINGS.values()))(text)


class Segmenter:
    """Cuts byte strings into tokens at random. The vocabulary must have every single byte."""

    def __init__(self, tokens: Sequence[bytes | None]) -> None:
        # The lowest id of a spelling is not always the one a tokenizer emits: keep them all.
        self._ids: dict[bytes, list[int]] = {}
        for token, raw in enumerate(tokens):
            if raw and len(raw) <= _LONGEST:
                self._ids.setdefault(raw, []).append(token)

    def segment(self, raw: bytes, rng: random.Random) -> list[int]:
        """One segmentation: at every place any token that fits, short ones as likely as long."""
        ids, size, uniform = self._ids, len(raw), rng.random
        found: list[int] = []
        place = 0
        while place < size:
            fitting = [
                piece
                for i in range(place, min(place + _LONGEST, size))
                if (piece := raw[place : i + 1]) in ids
            ]
            piece = fitting[int(uniform() * len(fitting))]
            place += len(piece)
            found.append(rng.choice(ids[piece]))
        return found
