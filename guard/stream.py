"""Folded text as a byte stream with word borders written into it.

The token automaton reads UTF-8 bytes of folded text (`detectors.normaliser`), with WORD_START
before each word and WORD_END after it. Borders are then ordinary symbols: a whole-word phrase is a
byte string that begins with WORD_START, and nothing downstream needs to look at characters again.
The two symbols cannot occur in folded text, which has no control characters.
"""

from __future__ import annotations

from enum import IntEnum
from itertools import groupby

from detectors.normaliser import is_word_char

WORD_START = 0x01
WORD_END = 0x02


class CharClass(IntEnum):
    """What the character before a position means for what may follow it."""

    NONE = 0  # no character at all: the text folds to nothing
    OTHER = 1  # punctuation, start of text, a script without spaces
    SPACE = 2  # a further space is swallowed
    WORD = 3


def char_class(char: str) -> CharClass:
    """The class of one folded character."""
    if char == " ":
        return CharClass.SPACE
    return CharClass.WORD if is_word_char(char) else CharClass.OTHER


def stream(folded: str) -> bytes:
    """Folded text -> byte stream, as if it began after a non-word character.

    A word that reaches the end of the text stays open: no WORD_END, since the word may go on.
    """
    runs = (
        f"\x01{''.join(run)}\x02" if is_word else "".join(run)
        for is_word, run in groupby(folded, is_word_char)
    )
    return "".join(runs).removesuffix("\x02").encode()
