"""The word view: a text as the symbols of its folded words, the same for every model.

Re-wrapping, case, punctuation and typography do not change it. A word is a run of word characters
of the folded text; a letter of a script written without spaces is a word by itself. A word's symbol
is a 32-bit hash, so no dictionary has to be kept, shared or searched: two words meet in one symbol
once in four thousand million pairs, and a match of eight words needs all eight to do so at once.
The folding is injected, because the normaliser is a detector's.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tracing.sorting import Array, jit

Symbols = npt.NDArray[np.uint32]

_UNKNOWN, _OTHER, _WORD, _SINGLE = 0, 1, 2, 3


@dataclass(frozen=True, slots=True)
class Folding:
    """What the word view needs of a normaliser.

    `fold` gives the folded text; `fold_with_origins` also, per folded character, the index in the
    text that it came from; `is_word_char` says which folded characters make words. `version` names
    the rules: an index made under other rules is refused.
    """

    version: str
    fold: Callable[[str], str]
    fold_with_origins: Callable[[str], tuple[str, Sequence[int]]]
    is_word_char: Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Words:
    """The words of a text, in order.

    `starts` and `ends` [n] int64 are character offsets into the text as it was given.
    """

    symbols: Symbols
    folded: Sequence[str]
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]


class WordView:
    """Texts to symbols. Safe to share between threads."""

    def __init__(self, folding: Folding) -> None:
        self.folding = folding
        self._classes = np.zeros(0x110000, np.uint8)
        self._classes[:128] = [self._class(code) for code in range(128)]

    @property
    def name(self) -> str:
        """Names what symbols mean; two views of one name agree."""
        return f"words-1/{self.folding.version}"

    def symbols(self, text: str) -> Symbols:
        """The symbols of a text's words, [n] uint32, none of them 0."""
        return self._scan(self.folding.fold(text))[2]

    def words(self, text: str) -> Words:
        """The words with their folded forms and their offsets; ten times as slow as `symbols`."""
        folded, origins = self.folding.fold_with_origins(text)
        first, last, symbols = self._scan(folded)
        at = np.asarray(origins, np.int64)
        parts = [folded[a:b] for a, b in zip(first.tolist(), last.tolist(), strict=True)]
        # Characters that fold to nothing between two words belong to neither.
        return Words(symbols, parts, at[first], at[last - 1] + 1)

    def words_so_far(self, text: str) -> tuple[Words, bool]:
        """The words of a text that goes on, and whether the last of them may go on too."""
        words = self.words(text)
        if not len(words.symbols):
            return words, False
        last = self.folding.fold(text[int(words.starts[-1]) :])
        is_open = last == words.folded[-1] and self._classes[ord(last[-1])] == _WORD
        return words, bool(is_open)

    def stream(self) -> WordStream:
        """A reader of a text that arrives in pieces."""
        return WordStream(self)

    def _scan(self, folded: str) -> tuple[Any, Any, Symbols]:
        codes = np.frombuffer(folded.encode("utf-32-le", "surrogatepass"), np.uint32)
        classes = self._classes[codes]
        if not classes.all():
            for code in np.unique(codes[classes == _UNKNOWN]).tolist():
                self._classes[code] = self._class(code)
            classes = self._classes[codes]
        first, last, symbols = scan_words(codes, classes)
        return first, last, symbols

    def _class(self, code: int) -> int:
        char = chr(code)
        if self.folding.is_word_char(char):
            return _WORD
        return _SINGLE if unicodedata.category(char)[0] in "LN" else _OTHER


class WordStream:
    """Words of a text that arrives in pieces: each is given once, when it is complete."""

    def __init__(self, view: WordView) -> None:
        self._view = view
        self._pending = ""

    def feed(self, piece: str) -> Symbols:
        """The symbols of the words that this piece completed, [n] uint32."""
        folded = self._pending + self._view.folding.fold(piece)
        first, last, symbols = self._view._scan(folded)
        # A word that touches the end may go on; it and nothing else has to be kept.
        open_word = bool(len(first)) and int(last[-1]) == len(folded)
        if open_word and self._view._classes[ord(folded[-1])] == _WORD:
            self._pending = folded[int(first[-1]) :]
            return symbols[:-1]
        self._pending = ""
        return symbols

    def finish(self) -> Symbols:
        """The symbol of the last word, [0 or 1] uint32, now that nothing follows it."""
        symbols = self._view._scan(self._pending)[2]
        self._pending = ""
        return symbols


@jit
def scan_words(codes: Array, classes: Array) -> Any:
    """First and last (exclusive) character and symbol of each word; codes [n] uint32."""
    n = codes.shape[0]
    count = 0
    for i in range(n):
        count += classes[i] == _SINGLE or (
            classes[i] == _WORD and (i == 0 or classes[i - 1] != _WORD)
        )
    first, last = np.empty(count, np.int64), np.empty(count, np.int64)
    symbols = np.empty(count, np.uint32)
    i, k = 0, 0
    while i < n:
        if classes[i] == _OTHER:
            i += 1
            continue
        begin = i
        mixed = np.uint64(0xCBF29CE484222325)
        single = classes[i] == _SINGLE
        while True:
            mixed = (mixed ^ np.uint64(codes[i])) * np.uint64(0x100000001B3)
            i += 1
            if single or i == n or classes[i] != _WORD:
                break
        mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
        symbol = np.uint32(mixed >> np.uint64(32))
        first[k], last[k] = begin, i
        # 0 separates documents.
        symbols[k] = symbol or np.uint32(1)
        k += 1
    return first, last, symbols
