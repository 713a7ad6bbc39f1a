"""Names spelled in another alphabet, compared by how they sound.

A Latin name written in Cyrillic or Greek letters comes back changed ("Hina Ameen", "Хина Амин"), so
neither letters nor a plain transliteration can be compared. What stays is the order of the
consonants: a word's *sound* is its first letter and its consonants, grouped by how they are
confused. Only words that are written in another alphabet are compared, so Latin text cannot give a
false alarm here.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

# Names with fewer sounding letters would match by chance.
FEWEST_SOUNDS = 4

# Simplified from ISO 9 and ISO 843 towards English spelling; each letter in lower case.
_ROMAN = dict(zip("абвгґдеёзийклмнопрстуўфхыэ", "abvggdeeziyklmnoprstuufhye", strict=True)) | {
    **dict(zip("αβγδεζηικλμνξοπρστυφχω", "avgdeziiklmnxoprstifho", strict=True)),
    **{"ж": "zh", "ч": "ch", "ш": "sh", "щ": "sh", "ю": "yu", "я": "ya", "ъ": "", "ь": ""},
    **{"і": "i", "ї": "yi", "є": "ye", "ј": "y", "љ": "l", "њ": "n", "ћ": "ch", "ђ": "d"},
    **{"џ": "j", "θ": "th", "ψ": "ps", "ς": "s", "ц": "ts"},
}
# Longer spellings first: each becomes one class of sound.
_CLASSES = (
    *(("дж", "j"), ("μπ", "b"), ("ντ", "d"), ("γκ", "g"), ("τζ", "j"), ("ου", "u")),
    *(("кс", "x"), ("sch", "s"), ("tch", "s"), ("ch", "s"), ("sh", "s"), ("zh", "j")),
    *(("ph", "f"), ("th", "t"), ("kh", "h"), ("gh", "g"), ("ck", "k"), ("ts", "s")),
    *(("x", "ks"), ("ce", "se"), ("ci", "si"), ("cy", "si"), ("c", "k"), ("q", "k")),
    *(("w", "v"), ("z", "s"), ("j", "y"), ("h", "g"), ("f", "v"), ("d", "t"), ("b", "v")),
)
_VOWELS = re.compile(r"(?<!^)[aeiouy]")
_REPEATED = re.compile(r"(.)\1+")
_WORD = re.compile(r"[^\W\d_]+")


def foreign_sounds(text: str) -> str:
    """The sounds of a text's Cyrillic and Greek words, in order; other words are commas."""
    if text.isascii():
        return ""
    return " ".join(sound(w) if _is_foreign(w) else "," for w in _WORD.findall(text))


def name_sounds(name: str) -> str | None:
    """The sounds of a name's words; None where they are too few to tell it from others."""
    sounds = " ".join(sound(word) for word in _WORD.findall(name))
    return sounds if len(sounds.replace(" ", "")) >= FEWEST_SOUNDS else None


@lru_cache(maxsize=16_384)
def sound(word: str) -> str:
    """One word's first letter and consonant classes: "Ameen" and "Амин" are both "amn"."""
    bare = "".join(c for c in unicodedata.normalize("NFD", word.lower()) if c not in _ACCENTS)
    composed = unicodedata.normalize("NFC", bare)
    for spelling, letter in _CLASSES[:7]:
        composed = composed.replace(spelling, letter)
    roman = "".join(_ROMAN.get(char, char) for char in composed)
    for spelling, letter in _CLASSES[7:]:
        roman = roman.replace(spelling, letter)
    first, rest = roman[:1], _VOWELS.sub("", roman)
    return _REPEATED.sub(r"\1", "a" + rest[1:] if first in "aeiou" else rest)


# Stress and breathing marks; not the breve and diaeresis, which make other letters.
_ACCENTS = frozenset("\u0300\u0301\u0313\u0314\u0342\u0345")


def _is_foreign(word: str) -> bool:
    return any("\u0370" <= char <= "\u052f" or "\u1f00" <= char <= "\u1fff" for char in word)
