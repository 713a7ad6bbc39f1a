"""Spans of a text that state a fact: names, quoted titles, dates, numbers, identifiers, words.

Pure scanning by rules, no frequencies: `detectors.extraction` decides what to keep.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from detectors.lexicon import FUNCTION_WORDS

# Between two capitalised words these belong to the name ("Elsie van der Berg").
_PARTICLES = frozenset(
    [
        "de",
        "del",
        "della",
        "der",
        "den",
        "di",
        "da",
        "das",
        "do",
        "dos",
        "du",
        "e",
        "el",
        "al",
        "ap",
        "bin",
        "ibn",
        "la",
        "las",
        "le",
        "los",
        "of",
        "san",
        "santa",
        "ten",
        "ter",
        "van",
        "von",
        "vom",
        "y",
        "zu",
        "zum",
    ]
)
_ABBREVIATIONS = frozenset(["dr", "mr", "mrs", "ms", "prof", "st", "jr", "sr", "rev", "hon"])
_MAX_NAME_WORDS = 6

_APOSTROPHES = "'’ʼ"
WORD = re.compile(rf"[^\W_]+(?:[{_APOSTROPHES}.\-‐‑·][^\W_]+)*")
_POSSESSIVE = re.compile(rf"[{_APOSTROPHES}][sS]$")
_SENTENCE_END = re.compile(r"[.!?:;。！？]\s*$|^\s*$|\n\s*$")

_QUOTED = re.compile(
    r"\"([^\"\n]{2,120})\"|“([^”\n]{2,120})”|«([^»\n]{2,120})»|„([^“”\n]{2,120})[“”]"
    r"|《([^》\n]{1,60})》|「([^」\n]{1,60})」|『([^』\n]{1,60})』"
    r"|(?<!\w)['‘]([^'‘’\n]{2,80}(?:['’]\w[^'‘’\n]*)*)['’](?!\w)"
)
_MONTH = (
    r"(?:january|february|march|april|may|june|july|august|september|october|november|december"
    r"|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec)\.?"
)
_DAY = r"\d{1,2}(?:st|nd|rd|th)?"
_DATE = re.compile(
    rf"\b(?:\d{{1,2}}[/.\-]\d{{1,2}}[/.\-]\d{{2,4}}|\d{{4}}[/.\-]\d{{1,2}}[/.\-]\d{{1,2}}"
    rf"|{_DAY}(?: day)?(?: of)? {_MONTH}(?:,? (?:in the year )?\d{{4}})?"
    rf"|{_MONTH} {_DAY}(?:,? \d{{4}})?|{_MONTH},? \d{{4}})\b",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"(?<!\w)[+(]?\d(?:[\d.,:/\-]|[ ()](?=[\d(]))*\d(?!\w)|(?<!\w)\d+(?!\w)")
_IDENTIFIER = re.compile(
    r"[\w.+\-]+@[\w\-]+(?:\.[\w\-]+)+|https?://[^\s\"'<>)]+|www\.[^\s\"'<>)]+"
    r"|\b(?=[\w\-]*\d)(?=[\w\-]*[A-Za-z])[A-Za-z0-9]+(?:[-_][A-Za-z0-9]+)*\b"
)


class Kind(StrEnum):
    """What a span looks like."""

    NAME = "name"
    TITLE = "title"
    DATE = "date"
    NUMBER = "number"
    IDENTIFIER = "identifier"
    WORD = "word"


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a text; `start` is its character offset. Possessive endings are cut off."""

    kind: Kind
    start: int
    text: str


def spans(text: str) -> Iterator[Span]:
    """All spans of a text, kind by kind, in order of appearance; spans of two kinds overlap."""
    for match in _QUOTED.finditer(text):
        title = next(group for group in match.groups() if group is not None)
        yield Span(Kind.TITLE, match.start() + 1, title.strip(" ,.;:!?"))
    for kind, pattern in (
        (Kind.DATE, _DATE),
        (Kind.NUMBER, _NUMBER),
        (Kind.IDENTIFIER, _IDENTIFIER),
    ):
        for match in pattern.finditer(text):
            yield Span(kind, match.start(), match.group().strip(" ,.;:"))
    yield from names(text)
    for match in WORD.finditer(text):
        yield Span(Kind.WORD, match.start(), _POSSESSIVE.sub("", match.group()))


def names(text: str) -> Iterator[Span]:
    """Runs of capitalised words, with particles, initials and hyphens.

    Function words at the start of a sentence are not part of a name. A single capitalised word is
    a name only where it does not open a sentence.
    """
    tokens = list(WORD.finditer(text))
    index = 0
    while index < len(tokens):
        last = _name_end(text, tokens, index)
        if last == index:
            index += 1
            continue
        first = index
        while first < last and tokens[first].group().lower() in FUNCTION_WORDS:
            first += 1
        opens = bool(
            _SENTENCE_END.search(text[max(0, tokens[index].start() - 8) : tokens[index].start()])
        )
        if first < last and not (last - first == 1 and first == index and opens):
            start = tokens[first].start()
            raw = text[start : tokens[last - 1].end()]
            yield Span(Kind.NAME, start, _POSSESSIVE.sub("", raw))
        index = last


def _name_end(text: str, tokens: list[re.Match[str]], first: int) -> int:
    """Index past the last token of the name that starts at `first`; `first` where none does."""
    if not _capitalised(tokens[first].group()):
        return first
    last = position = first + 1
    while position < len(tokens) and position - first < _MAX_NAME_WORDS:
        if not _joined(text, tokens[position - 1], tokens[position]):
            break
        word = tokens[position].group()
        if _capitalised(word):
            last = position + 1
        elif word.lower() not in _PARTICLES:
            break
        position += 1
    return last


def _capitalised(word: str) -> bool:
    return word[0].isupper() or word[0].istitle()


def _joined(text: str, left: re.Match[str], right: re.Match[str]) -> bool:
    if _POSSESSIVE.search(left.group()):
        return False
    gap = text[left.end() : right.start()]
    word = left.group().split(".")[-1]
    abbreviated = len(word) == 1 or word.lower() in _ABBREVIATIONS
    return gap in (" ", "\u00a0") or (abbreviated and gap in (".", ". "))
