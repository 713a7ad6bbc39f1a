"""How ordinary a word is: function words, words that frame an answer, background frequency."""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from importlib.resources import files


def _words(name: str) -> frozenset[str]:
    text = files("detectors").joinpath("data", name).read_text(encoding="utf-8")
    return frozenset(text.split())


# English words that carry no fact of their own. Number words from "two" on do, and are not here.
FUNCTION_WORDS = _words("function_words.txt")

# Words that answers are built with; forbidding them would spoil an answer and hide nothing.
FRAME_WORDS = _words("frame_words.txt")

NUMBER_WORDS = _words("number_words.txt")

# Above this zipf frequency (occurrences per thousand million words, log10) any word is function.
_FUNCTION_ZIPF = 6.0


# Other languages whose everyday words must not pass for rare English ones.
_LANGUAGES = {
    "LATIN": ("de", "fr", "es", "it", "pt", "nl", "sv", "da", "fi", "pl", "cs", "tr", "id"),
    "CYRILLIC": ("ru", "uk", "bg"),
}
_OTHER_LANGUAGES = ("el", "ar", "he", "fa", "hi", "bn")


_BREAKS = str.maketrans(dict.fromkeys("-'’ʼ.,·‐‑/:", " "))


@lru_cache(maxsize=65_536)
def zipf(word: str) -> float:
    """English background frequency, log10 of occurrences per 10^9 words; 0 is unheard of.

    A hyphenated or apostrophised word is as rare as its rarest part of two letters or more.
    """
    return min((_lookup(part, "en", "best") for part in _parts(word)), default=0.0)


@lru_cache(maxsize=65_536)
def zipf_anywhere(word: str) -> float:
    """The highest background frequency in any of the languages known here."""
    return min((_anywhere(part) for part in _parts(word)), default=0.0)


def _parts(word: str) -> list[str]:
    parts = word.translate(_BREAKS).split()
    return [part for part in parts if len(part) > 1] or parts


def _anywhere(word: str) -> float:
    script = unicodedata.name(word[0], "").split(" ")[0]
    languages = _LANGUAGES.get(script, _OTHER_LANGUAGES)
    return max(_lookup(word, "en", "best"), *(_lookup(word, code, "small") for code in languages))


def _lookup(word: str, language: str, wordlist: str) -> float:
    from wordfreq import zipf_frequency

    return float(zipf_frequency(word, language, wordlist=wordlist))


def is_function_word(word: str) -> bool:
    """Whether a folded word carries no fact of its own."""
    if word in FUNCTION_WORDS:
        return True
    return word.isalpha() and word not in NUMBER_WORDS and zipf(word) >= _FUNCTION_ZIPF


def is_frame_word(word: str) -> bool:
    """Whether a folded word is one that answers are built with."""
    return word in FRAME_WORDS
