"""Nets: the checks through which an answer's text runs on its way out.

A net checks one surface (the content, one tool call's arguments, ...) of one choice. It is fed the
text in pieces and releases what is certain: in total a beginning of what it was fed. When it
catches something it releases what stood before it and nothing ever after. Several nets stand one
behind the other, so that each decides about the very text that the next may show.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Catch(StrEnum):
    """What an answer was ended for (a closed set: metric labels are made of it)."""

    PHRASE = "phrase"
    NAME = "name"
    PADDING = "padding"
    PROVENANCE = "provenance"


@dataclass(frozen=True, slots=True)
class Released:
    """Text that may go out. Once something is `caught` nothing more will."""

    text: str
    caught: Catch | None = None


class Net(Protocol):
    """One check of one surface."""

    @property
    def held(self) -> str:
        """What was fed and is not yet decided."""

    def prime(self, context: str) -> None:
        """Before anything is fed: the text that stands before this one, and its reader wrote.

        What begins in it and ends in the text fed is caught; what lies wholly in it is not. Nothing
        of it is held or released.
        """

    def feed(self, delta: str) -> Released:
        """Take more text; release what is now certain."""

    def finish(self) -> Released:
        """The text is complete: release the rest, or catch."""

    def reveals(self, ending: str) -> Catch | None:
        """What would be caught if the text so far went on with `ending` and then ended.

        For what the engine cut off but names: a stop string. Changes nothing.
        """


MakeNet = Callable[[], Net]
# Told what ends an answer, and whose it is: ids of targets.
CutWitness = Callable[[Catch, Sequence[str]], None]


@dataclass(frozen=True, slots=True)
class AnswerNets:
    """What one answer is checked by: a fresh net of each kind per surface.

    `enforced` end the answer, the first being the first to see the text. The last must be the one
    that minds word borders, because it has to judge the text that an earlier one cuts. `observed`
    belong to targets in observe mode: what they catch is counted and changes nothing.
    """

    enforced: tuple[MakeNet, ...] = ()
    observed: tuple[MakeNet, ...] = ()


class NetChain:
    """Nets one behind the other; a net itself."""

    def __init__(self, nets: Sequence[Net]) -> None:
        self._nets = nets
        self.caught: Catch | None = None

    @property
    def held(self) -> str:
        """What was fed and is not yet decided."""
        return "".join(net.held for net in reversed(self._nets))

    def prime(self, context: str) -> None:
        """Tell all nets the text that stands before this one."""
        for net in self._nets:
            net.prime(context)

    def feed(self, delta: str) -> Released:
        """Take more text; release what all nets are certain of."""
        return self._run(delta, final=False)

    def finish(self) -> Released:
        """The text is complete: release the rest, or catch."""
        return self._run("", final=True)

    def reveals(self, ending: str) -> Catch | None:
        """What would be caught if the text so far went on with `ending` and then ended."""
        for net in self._nets:
            if (caught := net.reveals(ending)) is not None:
                return caught
            ending = net.held + ending
        return None

    def close(self, caught: Catch) -> None:
        """Release nothing more, because of what was found elsewhere."""
        self.caught = caught

    def _run(self, text: str, *, final: bool) -> Released:
        if self.caught is not None:
            return Released("", self.caught)
        for net in self._nets:
            released = net.feed(text)
            text = released.text
            if final and released.caught is None:
                released = net.finish()
                text += released.text
            if released.caught is not None:
                # For the nets behind it the text ends here; the first reason counts.
                self.caught, final = self.caught or released.caught, True
        return Released(text, self.caught)
