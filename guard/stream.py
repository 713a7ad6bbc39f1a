"""Folded text as a byte stream with word borders written into it.

The token automaton reads UTF-8 bytes of folded text (`detectors.normaliser`), with WORD_START
before each word and WORD_END after it. Borders are then ordinary symbols: a whole-word phrase is a
byte string that begins with WORD_START, and nothing downstream needs to look at characters again.
The two symbols cannot occur in folded text, which has no control characters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import groupby

import numpy as np
import numpy.typing as npt

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


@dataclass(frozen=True, slots=True)
class Streams:
    """The streams of n texts in flat arrays.

    `bytes` [total] uint8 and `start` [n + 1] int64 hold them; `first` and `last` [n] uint8 are the
    `CharClass` values of each text's ends.
    """

    bytes: npt.NDArray[np.uint8]
    start: npt.NDArray[np.int64]
    first: npt.NDArray[np.uint8]
    last: npt.NDArray[np.uint8]


def streams(folded: Sequence[str]) -> Streams:
    """`stream` of many folded texts at once."""
    # NUL cannot be in folded text. It stands before, between and behind the texts.
    code = np.frombuffer("\0".join(("", *folded, "")).encode("utf-32-le"), np.uint32)
    kind = _classes(code)
    ends = np.flatnonzero(code == 0)
    word = kind == CharClass.WORD
    opens, closes = np.zeros_like(word), np.zeros_like(word)
    opens[1:] = word[1:] & ~word[:-1]
    # A word at the end of its text stays open.
    closes[:-1] = word[:-1] & ~word[1:] & (code[1:] != 0)
    raw = _utf8(_insert(code, opens, closes))
    borders = np.flatnonzero(raw == 0)
    # The NULs leave no trace in the flat bytes, so text i begins i + 1 bytes earlier.
    start = borders - np.arange(len(borders))
    return Streams(raw[raw != 0], start, kind[ends[:-1] + 1], kind[ends[1:] - 1])


def _classes(code: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint8]:
    """The class of each code point; NUL has none."""
    found = np.zeros(int(code.max()) + 1, np.bool_)
    found[code] = True
    table = np.zeros(len(found), np.uint8)
    for code_point in np.flatnonzero(found)[1:].tolist():
        table[code_point] = char_class(chr(code_point))
    return table[code]


def _insert(
    code: npt.NDArray[np.uint32], opens: npt.NDArray[np.bool_], closes: npt.NDArray[np.bool_]
) -> npt.NDArray[np.uint32]:
    """The code points with a border symbol before each opening and after each closing one."""
    place = np.arange(len(code)) + np.cumsum(opens) + np.cumsum(closes) - closes
    out = np.empty(int(place[-1]) + 1, np.uint32)
    out[place] = code
    out[place[opens] - 1] = WORD_START
    out[place[closes] + 1] = WORD_END
    return out


def _utf8(code: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint8]:
    return np.frombuffer(code.tobytes().decode("utf-32-le").encode(), np.uint8)
