"""TraceShield on one surface of one choice: streamed text, held back while a match may be growing.

Only words of a match that is still going on are held back, fewer than the corpus's minimum, and the
word that is being written. Text that nobody registered therefore flows with a word's delay. When a
window is refused, what was held back of it is not released, and nothing is after it: as many words
of a match as the minimum never come out. What is released does not depend on how the text was cut.

Like the phrases' shield it reads a text as it stands and, once there is a backslash in it, with
JSON escapes decoded too.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Protocol

from guard.nets import Catch, Released
from guard.shield import json_units, unfinished_escape
from tracing.judge import Finding, Judge, Trail
from tracing.words import WordView


class Witness(Protocol):
    """Who is told what a shield does."""

    def found(self, finding: Finding) -> None:
        """A window was refused."""

    def matched(self, seconds: float) -> None:
        """A piece of text took so long to be judged."""


# A run of letters that is longer is no word: it is cut there, so that it cannot hold a text up.
LONGEST_WORD = 1024
_PASSAGE_CHARS = 64


class TraceShield:
    """The net of one surface.

    `holdback_chars` bounds what is held back: a match padded with thousands of characters is
    caught.
    """

    def __init__(
        self, judge: Judge, words: WordView, holdback_chars: int, witness: Witness
    ) -> None:
        self.judge = judge
        self._limit, self._witness = holdback_chars, witness
        self._readings = [_Reading(words, Trail(judge))]
        self._window = ""
        self._base = 0
        self._caught: Catch | None = None

    @property
    def held(self) -> str:
        """What was fed and is not yet decided."""
        return self._window

    def prime(self, context: str) -> None:
        """The text that stands before this one."""
        if "\\" in context:
            self._readings.append(self._readings[0].decoding())
        for reading in self._readings:
            reading.prime(context)
        self._base = len(context)

    def feed(self, delta: str) -> Released:
        """Take more text; release what is now certain."""
        if self._caught is not None:
            return Released("", self._caught)
        at = self._base + len(self._window)
        self._window += delta
        if len(self._readings) == 1 and "\\" in delta:
            self._readings.append(self._readings[0].decoding())
        cut = at + len(delta)
        begun = time.perf_counter()
        for reading in self._readings:
            safe, refused = reading.feed(delta, at)
            if refused is not None:
                return self._refuse(safe, refused)
            cut = min(cut, safe)
        self._witness.matched(time.perf_counter() - begun)
        if self._base + len(self._window) - max(cut, self._base) > self._limit:
            return self._catch(cut, Catch.PADDING)
        return Released(self._release(cut))

    def finish(self) -> Released:
        """The text is complete: release the rest, or catch."""
        if self._caught is not None:
            return Released("", self._caught)
        for reading in self._readings:
            safe, refused = reading.finish()
            if refused is not None:
                return self._refuse(safe, refused)
        return Released(self._release(self._base + len(self._window)))

    def reveals(self, ending: str) -> Catch | None:
        """What would be caught if the text so far went on with `ending` and then ended."""
        if not self._base and not self._window and len(ending) < _PASSAGE_CHARS:
            # One of the tokens that might have been said instead is no passage.
            return None
        would = any(reading.would_refuse(ending) for reading in self._readings)
        return Catch.PROVENANCE if would else None

    def _refuse(self, cut: int, finding: Finding) -> Released:
        self._witness.found(finding)
        return self._catch(cut, Catch.PROVENANCE)

    def _catch(self, cut: int, caught: Catch) -> Released:
        self._caught = caught
        text = self._release(cut)
        self._window = ""
        return Released(text, caught)

    def _release(self, cut: int) -> str:
        size = max(0, cut - self._base)
        text, self._window = self._window[:size], self._window[size:]
        self._base += size
        return text


@dataclass(slots=True)
class _Reading:
    """One way to read a text; offsets count its characters as they were written.

    `_starts` are those of the last words, `_pending` the word that is being written and
    `_origins` where its characters came from; `_raw` an escape that is not complete. Words that end
    before `_own` are known to the reader.
    """

    words: WordView
    trail: Trail
    decodes: bool = False
    _starts: list[int] = field(default_factory=list)
    _pending: str = ""
    _origins: list[int] = field(default_factory=list)
    _raw: str = ""
    _held: int = 0
    _own: int = 0

    def decoding(self) -> _Reading:
        """The same text so far, read with its escapes decoded from here on."""
        return _Reading(
            self.words,
            self.trail.copy(),
            True,
            list(self._starts),
            self._pending,
            list(self._origins),
            "",
            self._held,
            self._own,
        )

    def prime(self, context: str) -> None:
        """Take the text that stands before this one, from its place 0 on."""
        self._own = len(context)
        self.feed(context, 0)

    def feed(self, delta: str, at: int) -> tuple[int, Finding | None]:
        """Take text that begins at `at`.

        Gives the place up to which it may be shown, and the window that was refused.
        """
        end = at + len(delta)
        if self._goes_on(delta):
            self._pending += delta
            self._origins.extend(range(at, end))
            return min([end, *self._open_places(end)]), None
        chars, origins = self._read(delta, at)
        text, places = self._pending + chars, self._origins + origins
        words, is_open = self.words.words_so_far(text)
        starts = words.starts.tolist()
        last = starts[-1] if is_open else len(text)
        if is_open and len(text) - last > LONGEST_WORD:
            is_open, last = False, len(text)
        complete = len(starts) - is_open
        known = self._known(words.ends[:complete].tolist(), places)
        judgement = self.trail.take(words.symbols[:complete], words.folded[:complete], known)
        self._starts += [places[start] for start in starts[:complete]]
        if complete:
            self._held = judgement.held
        if judgement.refused is not None:
            return self._start_of(judgement.refused), judgement.refused
        self._starts = self._starts[-self.trail.judge.width :]
        self._pending, self._origins = text[last:], places[last:]
        return min([end, *self._open_places(end)]), None

    def finish(self) -> tuple[int, Finding | None]:
        """The text is complete; as `feed`."""
        words, _ = self.words.words_so_far(self._pending)
        known = self._known(words.ends.tolist(), self._origins)
        judgement = self.trail.take(words.symbols, words.folded, known)
        self._starts += [self._origins[start] for start in words.starts.tolist()]
        self._pending = ""
        found = judgement.refused or self.trail.finish()
        return (0 if found is None else self._start_of(found)), found

    def would_refuse(self, ending: str) -> bool:
        """Whether a refused window comes about if the text ends with `ending`."""
        trail = self.trail.copy()
        words, _ = self.words.words_so_far(self._pending + ending)
        places = [*self._origins, *[self._own] * len(ending)]
        known = self._known(words.ends.tolist(), places)
        refused = trail.take(words.symbols, words.folded, known).refused
        return refused is not None or trail.finish() is not None

    def _goes_on(self, delta: str) -> bool:
        """Whether some text only makes the word longer that is being written."""
        return (
            bool(self._pending)
            and not self._raw
            and delta.isascii()
            and delta.isalnum()
            and len(self._pending) + len(delta) <= LONGEST_WORD
        )

    def _known(self, ends: list[int], places: list[int]) -> int:
        """How many words end before the text; `places` is where their characters came from."""
        if not places or places[0] >= self._own:
            return 0
        return sum(places[end - 1] < self._own for end in ends)

    def _start_of(self, finding: Finding) -> int:
        """Where the words begin that were held back when the last one came, and that one."""
        held = min(finding.matched, finding.corpus.minimum)
        return self._starts[finding.end - held - self.trail.count]

    def _open_places(self, end: int) -> list[int]:
        places = [self._starts[-self._held]] if self._held else []
        if self._pending:
            places.append(self._origins[0])
        if self._raw:
            places.append(end - len(self._raw))
        return places

    def _read(self, delta: str, at: int) -> tuple[str, list[int]]:
        if not self.decodes:
            return delta, list(range(at, at + len(delta)))
        text, at = self._raw + delta, at - len(self._raw)
        cut = unfinished_escape(text)
        self._raw = "" if cut is None else text[cut:]
        units = list(json_units(text[:cut]))
        return "".join(unit.char for unit in units), [at + unit.start for unit in units]
