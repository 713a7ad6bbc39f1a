"""The output shield: releases streamed text once it can no longer become a forbidden phrase.

One shield guards one surface (the content, one tool call's arguments, ...) of one choice. Text that
may still become an occurrence waits in the hold-back window; when an occurrence is complete the
shield blocks: it releases what stood before it and nothing ever after. What is released in total
does not depend on how the text was cut into chunks, and never contains an active phrase.

Text is read in two ways at once: as it stands, and with JSON escapes decoded, because tool-call
arguments and structured outputs are JSON inside a string (`J\\u006fhn` is a name to their reader).
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from detectors.normaliser import at_border, fold, fold_with_origins, is_plain
from guard.nets import Catch, CutWitness, Released
from guard.phrase_matcher import PhraseMatcher, PhraseMatchers

DEFAULT_HOLDBACK_CHARS = 2000

_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|[\"\\/bfnrt])"
)
_UNFINISHED_ESCAPE = re.compile(
    r"\\(?:u[0-9a-fA-F]{0,3}|u[dD][89abAB][0-9a-fA-F]{2}(?:\\(?:u(?:[dD](?:[c-fC-F]"
    r"[0-9a-fA-F]?)?)?)?)?)?\Z"
)
_SIMPLE_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


def _unseen(_caught: Catch, _targets: Sequence[str]) -> None:
    pass


class OutputShield:
    """The net of phrases: shield of one surface of one choice.

    `holdback_chars` bounds the window: text that stays undecided for longer (a phrase padded with
    thousands of invisible characters) is blocked. `witness` is told of which targets a phrase is
    that it blocks for.
    """

    def __init__(
        self,
        matchers: PhraseMatchers,
        holdback_chars: int = DEFAULT_HOLDBACK_CHARS,
        witness: CutWitness = _unseen,
    ) -> None:
        self._witness = witness
        self._matchers = [matcher for matcher in matchers if matcher]
        self._shortest = min((matcher.shortest for matcher in self._matchers), default=0)
        self._limit = holdback_chars
        # The last released unit that is visible when folded: what the first word border needs. Or
        # what the reader wrote before the text, as long as an occurrence may begin there.
        self._context = ""
        self._primed = False
        self._window = ""
        self._caught: Catch | None = None

    @property
    def held(self) -> str:
        """What was fed and is not yet decided."""
        return self._window

    def prime(self, context: str) -> None:
        """The text that stands before this one."""
        self._context, self._primed = context, bool(context)

    def feed(self, delta: str) -> Released:
        """Take more text; release what is now certain."""
        if self._caught is not None:
            return Released("", self._caught)
        self._window += delta
        return self._advance(final=False)

    def finish(self) -> Released:
        """The text is complete: release the rest, or block."""
        if self._caught is not None:
            return Released("", self._caught)
        return self._advance(final=True)

    def reveals(self, ending: str) -> Catch | None:
        """What the text so far would hold if it went on with `ending`."""
        text = self._context + self._window + ending
        if len(text) < self._shortest and text.isascii():
            # Folding makes no ASCII text longer.
            return None
        found = self._find(text)
        return None if found is None else found.matcher.catch

    def _advance(self, *, final: bool) -> Released:
        text = self._context + self._window
        readings = self._readings(text, final=final)
        match = self._first_match(readings, final=final)
        if match is not None:
            matcher = match.matcher
            self._witness(matcher.catch, matcher.owners(match.phrase))
            return self._block(self._clean_cut(text, match.start), matcher.catch)
        if final:
            return self._release(len(text))
        cut = min(self._safe_ends(text, readings), default=len(text))
        if len(text) - max(cut, len(self._context)) > self._limit:
            return self._block(cut, Catch.PADDING)
        return self._release(cut)

    def _block(self, cut: int, caught: Catch) -> Released:
        self._caught = caught
        return Released(self._release(cut).text, caught)

    def _release(self, cut: int) -> Released:
        text = self._context + self._window
        already = len(self._context)
        if cut <= already:
            return Released("")
        self._window, self._primed = text[cut:], False
        self._context = text[_visible_unit_before(text, cut) : cut]
        return Released(text[already:cut])

    def _find(self, text: str) -> _Found | None:
        return self._first_match(self._readings(text, final=True), final=True)

    def _readings(self, text: str, *, final: bool) -> list[_Reading]:
        """The folded readings of a text that begins with the context."""
        readings = [self._reading(*fold_with_origins(text))]
        if "\\" in text:
            end = None if final else unfinished_escape(text)
            units = list(json_units(text[:end]))
            folded, origins = fold_with_origins("".join(unit.char for unit in units))
            raw_origins = [units[origin].start for origin in origins]
            readings.append(self._reading(folded, raw_origins))
        return readings

    def _reading(self, folded: str, origins: Sequence[int]) -> _Reading:
        return _Reading(folded, origins, skipped=len(self._context), primed=self._primed)

    def _first_match(self, readings: list[_Reading], *, final: bool) -> _Found | None:
        best: tuple[int, bool, int, Catch] | None = None
        result: _Found | None = None
        for reading in readings:
            for matcher in self._matchers:
                found = matcher.find_folded(
                    reading.folded, first=reading.first, own=reading.own, final=final
                )
                if found is not None:
                    end = reading.origins[found.end - 1] + 1
                    start = reading.origins[found.start]
                    key = (end, found.needs_border, start, matcher.catch)
                    if best is None or key < best:
                        phrase = reading.folded[found.start : found.end]
                        best, result = key, _Found(start, matcher, phrase)
        return result

    def _safe_ends(self, text: str, readings: list[_Reading]) -> Iterator[int]:
        """Where the text may end so that nothing shown can become part of an occurrence."""
        for reading in readings:
            starts: set[int] = set()
            for matcher in self._matchers:
                starts.update(matcher.open_starts(reading.folded, reading.first))
            for start in starts:
                if len(readings) == 1 and reading.at_border(start):
                    yield reading.origins[start]
                else:
                    yield self._clean_cut(text, _escape_around(text, reading.origins[start]))
        if self._matchers and (unfinished := unfinished_escape(text)) is not None:
            yield self._clean_cut(text, unfinished)

    def _clean_cut(self, text: str, cut: int) -> int:
        """The last place at or before `cut` where the text may end.

        Cutting makes a word border: "Johnny" cut after "John" would show the whole word "John".
        """
        while (match := self._find(text[:cut])) is not None:
            cut = match.start
        return _escape_around(text, cut)


@dataclass(frozen=True, slots=True)
class _Found:
    """Where the occurrence that ends first begins in the text, and which phrase it is, folded."""

    start: int
    matcher: PhraseMatcher
    phrase: str


class _Reading:
    """One way to read a text: its folded characters, and where in the text each came from.

    `own` is the first character that does not belong to the `skipped` part, and `first` the first
    where an occurrence may begin: where that part is `primed`, any.
    """

    __slots__ = ("first", "folded", "origins", "own")

    def __init__(self, folded: str, origins: Sequence[int], skipped: int, *, primed: bool) -> None:
        self.folded = folded
        self.origins = origins
        self.own = bisect_left(origins, skipped)
        self.first = 0 if primed else self.own

    def at_border(self, index: int) -> bool:
        """Whether a word border precedes a character."""
        return at_border(self.folded[index - 1] if index else "", self.folded[index])


@dataclass(frozen=True, slots=True)
class JsonUnit:
    """One character of the decoded text and where it began in the raw text."""

    start: int
    char: str


def json_units(text: str) -> Iterator[JsonUnit]:
    """The characters that a text stands for when its JSON escapes are decoded."""
    position = 0
    for escape in _ESCAPE.finditer(text):
        for index in range(position, escape.start()):
            yield JsonUnit(index, text[index])
        yield JsonUnit(escape.start(), _decoded(escape.group()))
        position = escape.end()
    for index in range(position, len(text)):
        yield JsonUnit(index, text[index])


def _decoded(escape: str) -> str:
    if escape[1] != "u":
        return _SIMPLE_ESCAPES.get(escape[1], escape[1])
    if len(escape) == 6:
        return chr(int(escape[2:6], 16))
    high, low = int(escape[2:6], 16), int(escape[8:], 16)
    return chr(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00))


def unfinished_escape(text: str) -> int | None:
    """Where an escape begins that the end of the text cuts off; None if there is none."""
    if "\\" not in text[-12:]:
        return None
    end = 0
    for escape in _ESCAPE.finditer(text):
        end = escape.end()
        # A high surrogate waits for its other half.
        if escape.group()[1:4].lower() in _HIGH_SURROGATES and len(escape.group()) == 6:
            end = escape.start()
    unfinished = _UNFINISHED_ESCAPE.search(text, end)
    return None if unfinished is None else unfinished.start()


_HIGH_SURROGATES = ("ud8", "ud9", "uda", "udb")


def _escape_around(text: str, cut: int) -> int:
    """`cut`, or the beginning of the escape that it would cut in two."""
    if "\\" in text[max(0, cut - 12) : cut]:
        for escape in _ESCAPE.finditer(text):
            if escape.start() < cut < escape.end():
                return escape.start()
    return cut


def _visible_unit_before(text: str, cut: int) -> int:
    """Where the last unit of `text[:cut]` begins that folding does not drop; 0 if there is none."""
    if cut and is_plain(text[cut - 1]) and "\\" not in text[:cut]:
        return cut - 1
    if "\\" not in text[:cut]:
        return next((i for i in range(cut - 1, -1, -1) if fold(text[i])), 0)
    units = list(json_units(text[:cut]))
    return next((unit.start for unit in reversed(units) if fold(unit.char)), 0)
