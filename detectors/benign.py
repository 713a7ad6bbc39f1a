"""The shipped benign prompts: what an innocent user asks, for calibration.

About half are everyday requests, half questions about invented people: a threshold that is honest
for the neighbours of a person must have seen questions about other persons.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files


@lru_cache(maxsize=1)
def benign_prompts() -> tuple[str, ...]:
    """The shipped prompts, in file order, without blank lines."""
    text = files("detectors").joinpath("data/benign.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if line.strip())
