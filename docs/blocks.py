"""The code blocks of the documents, for the tests that run them.

A block that no test can run says so, and why, in its title, which readers see:

    ```sh title="Not run by a test: there is no Docker here"
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_NOT_RUN = "Not run by a test: "
_BLOCK = re.compile(
    r'^```(?P<language>[a-z]+)(?: title="(?P<title>[^"]*)")?\n(?P<text>.*?)^```$',
    flags=re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code; `reason` says why no test runs it, and is None where one does."""

    language: str
    text: str
    reason: str | None


def blocks_of(document: Path) -> list[Block]:
    """A document's blocks that name a language, in order."""
    found = []
    for match in _BLOCK.finditer(document.read_text(encoding="utf-8")):
        title = match["title"] or ""
        reason = title.removeprefix(_NOT_RUN) if title.startswith(_NOT_RUN) else None
        found.append(Block(match["language"], match["text"], reason))
    return found
