"""What a client wrote directly before an answer: a completion's prompt, or a turn to go on with.

The nets are told of it. Otherwise a passage could be had a few words at a time, every answer too
short to be one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from detectors.normaliser import fold

# Enough for any phrase and for twice a window's words; what folds to nothing does not count.
PREFIX_CHARS = 2048
_READ_CHARS = 16 * PREFIX_CHARS
_TEXT_KEYS = ("text", "refusal", "thinking")


@dataclass(frozen=True, slots=True)
class Prefixes:
    """One text for each prompt, each of which gets `choices` answers, numbered in order.

    `endings`: stop strings and tokens that the client named too, for an API whose answers do not
    say which of them cut them off.
    """

    texts: Sequence[str] = ()
    choices: int = 1
    endings: tuple[str | int, ...] = ()

    def of(self, index: int) -> str:
        """The end of what stands before a choice, folded; empty if nothing does."""
        prompt = index // self.choices
        texts = self.texts[prompt : prompt + 1]
        return "".join(fold(text[-_READ_CHARS:])[-PREFIX_CHARS:] for text in texts)


def prefill(messages: Sequence[Any], *, goes_on: bool) -> str:
    """What the client has written of the next turn: the last message, if it is the model's.

    `goes_on`: the client asked to go on with that message, whoever speaks.
    """
    last = messages[-1] if messages else None
    if not isinstance(last, dict) or not (goes_on or last.get("role") == "assistant"):
        return ""
    content = last.get("content")
    return "\n".join(map(_text_of, content if isinstance(content, list) else [content]))


def _text_of(part: Any) -> str:
    if isinstance(part, dict):
        part = next((part[key] for key in _TEXT_KEYS if part.get(key)), "")
    return part if isinstance(part, str) else ""
