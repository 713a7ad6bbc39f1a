"""The shipped benign texts, for calibration: what an innocent user asks, and ordinary answers.

About half are everyday requests, half questions about invented people: a threshold that is honest
for the neighbours of a person must have seen questions about other persons. The answers are
everyday prose, code and letters. The boilerplate is what everybody quotes, so that nobody can want
it stopped: licences, disclaimers, famous first sentences.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files


@lru_cache(maxsize=1)
def benign_prompts() -> tuple[str, ...]:
    """The shipped prompts, in file order, without blank lines."""
    return _lines("benign.txt")


@lru_cache(maxsize=1)
def benign_answers() -> tuple[str, ...]:
    """The shipped answers, in file order."""
    return _lines("benign_answers.txt")


@lru_cache(maxsize=1)
def boilerplate() -> tuple[str, ...]:
    """The shipped boilerplate, in file order."""
    return _lines("boilerplate.txt")


def _lines(name: str) -> tuple[str, ...]:
    text = files("detectors").joinpath("data", name).read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if line.strip())
