"""Other forms of a forbidden phrase by rule: inflections, other romanisations, cut-off endings.

A token filter that forbids only the whole phrase leaves a model that has begun it to end it
otherwise: "Kalkidan Aber", "civil engineering". Meaning does not help there (an encoder knows no
rare names), so these forms are written down when a target is compiled. All texts are folded.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from math import ceil

from detectors.lexicon import zipf
from detectors.normaliser import is_word_char

MAX_ROMANISATIONS = 8

# Rarer words than this are no forms worth a pattern: misspellings, words of other languages.
_KNOWN_FORM = 2.5
# A name's commoner words have one spelling ("Kuwait City").
_RESPELLED = 4.5
_KNOWN_WORD = 2.5
_KEPT_SHARE = 0.7
_SHORTEST_CUT = 5
_SHORTEST_STEM = 4
_LAST_WORD = re.compile(r"[^\W\d_]+$")
_ENDINGS = ("", "s", "es", "d", "ed", "ing", "ings", "ies", "ied", "y", "e")
# Only put on, never taken off: "corner" is no form of "corn".
_MORE_ENDINGS = ("er", "ers", "ly")
# One way to write a name in Latin letters -> another. Each alone, in both directions.
_SPELLINGS = (
    ("kh", "h"),
    ("ou", "u"),
    ("oo", "u"),
    ("ee", "i"),
    ("ai", "ay"),
    ("ei", "ey"),
    ("iy", "i"),
    ("yu", "iu"),
    ("ya", "ia"),
    ("w", "v"),
    ("ph", "f"),
    ("ck", "k"),
    ("q", "k"),
    ("k", "c"),
    ("c", "k"),
    ("z", "s"),
    ("dj", "j"),
    ("zh", "j"),
    ("tz", "ts"),
    ("sch", "sh"),
    ("th", "t"),
    ("aa", "a"),
    ("y", "i"),
)
_DOUBLED = r"([^\W\d_aeiou])\1"
_CYRILLIC = (
    ("shch", "щ"),
    ("kh", "х"),
    ("zh", "ж"),
    ("ts", "ц"),
    ("ch", "ч"),
    ("sh", "ш"),
    ("ph", "ф"),
    ("ck", "к"),
    ("yu", "ю"),
    ("ya", "я"),
    ("ou", "у"),
    *zip(
        "abcdefghijklmnopqrstuvwxyz",
        (*"абкдефгхийклмнопкрстуву", "кс", "и", "з"),
        strict=True,
    ),
)


@lru_cache(maxsize=65_536)
def inflections(word: str) -> frozenset[str]:
    """Known words with the same stem and another grammatical ending."""
    if len(word) < _SHORTEST_STEM or not (word.isascii() and word.isalpha()):
        return frozenset()
    stems = {word[: len(word) - len(end)] for end in _ENDINGS if word.endswith(end)}
    stems |= {stem[:-1] for stem in stems if len(stem) > 2 and stem[-1] == stem[-2]}
    long_enough = {stem for stem in stems if len(stem) >= _SHORTEST_STEM}
    forms = {stem + end for stem in long_enough for end in (*_ENDINGS, *_MORE_ENDINGS)}
    return (_known(_KNOWN_FORM) & forms) - {word}


@lru_cache(maxsize=65_536)
def romanisations(name: str) -> tuple[str, ...]:
    """Other usual spellings of a name: letters, hyphens, and one in Cyrillic; no known words.

    Only its rare words are spelled otherwise.
    """
    words = name.split()
    found = dict.fromkeys([name.replace("-", " "), name.replace("-", ""), name.replace("'", "")])
    found[_respelled(words, _DOUBLED, r"\1")] = None
    for left, right in _SPELLINGS:
        found[_respelled(words, left, right)] = None
        if len(right) > 1:
            found[_respelled(words, right, left)] = None
    found.pop(name, None)
    written = []
    if name.isascii() and all(zipf(word) < _RESPELLED for word in words):
        written.append(cyrillic(name))
    new = [text for text in found if text not in _known(_KNOWN_WORD)]
    return (*new[: MAX_ROMANISATIONS - len(written)], *written)


def _respelled(words: Sequence[str], pattern: str, replacement: str) -> str:
    rare = (zipf(word) < _RESPELLED for word in words)
    return " ".join(
        re.sub(pattern, replacement, word) if is_rare else word
        for word, is_rare in zip(words, rare, strict=True)
    )


def cyrillic(name: str) -> str:
    """A Latin name in Cyrillic letters, by sound as far as single letters tell."""
    text, at = "", 0
    while at < len(name):
        pair = next(((a, b) for a, b in _CYRILLIC if name.startswith(a, at)), (name[at], name[at]))
        text += pair[1]
        at += len(pair[0])
    return text


def cut(phrase: str) -> str | None:
    """The phrase with its last word cut to its stem, to be forbidden however the word goes on.

    None if the last word is short, or if the phrase has no other word and the stem begins a known
    one: then an innocent word would be lost.
    """
    match = _LAST_WORD.search(phrase)
    if match is None or len(match.group()) < _SHORTEST_CUT:
        return None
    last = match.group()
    if not all(map(is_word_char, last)):
        return None
    stem = last[: max(_SHORTEST_STEM, ceil(_KEPT_SHARE * len(last)))]
    alone = not any(map(is_word_char, phrase[: match.start()]))
    if alone and begins_known_word(stem):
        return None
    return phrase[: match.start()] + stem


def begins_known_word(stem: str) -> bool:
    """Whether a word of the background frequencies begins with this."""
    words = _in_order()
    place = bisect_left(words, stem)
    return place < len(words) and words[place].startswith(stem)


@lru_cache(maxsize=1)
def _in_order() -> list[str]:
    return sorted(_known(_KNOWN_WORD))


@lru_cache(maxsize=2)
def _known(least_zipf: float) -> frozenset[str]:
    """English words of at least this zipf frequency (`detectors.lexicon.zipf`)."""
    from wordfreq import get_frequency_dict

    least = 10 ** (least_zipf - 9)
    frequencies = get_frequency_dict("en", wordlist="best")
    return frozenset(word for word, frequency in frequencies.items() if frequency >= least)
