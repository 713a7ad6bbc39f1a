"""The token sequences in which a model plausibly gives a registered text back.

A model mostly writes a text as its tokenizer would, and from the second word on that does not
depend on what stood before. Registered are therefore: the text as it stands; the same with its hard
line breaks taken out, if it has any; and for every line and sentence its first tokens as they are
where an answer, a line or a sentence in running text begins there. The first token of a run may
still be another one: it stands behind other text, with which it may have been put together. So runs
are registered that are one token shorter than what must not come out.

Not covered, because no table of token runs could: other spellings (case, typography, line breaks
elsewhere), and tokens that a model splits otherwise than its tokenizer inside a run.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.uint32]
Encode = Callable[[Sequence[str]], Sequence[Sequence[int]]]

LEADING = 4  # tokens a first word may have for its n-grams to be covered
_MOST_KEPT = 1 << 26
_CUT = 2  # last tokens of a text cut off that may be others in the whole text
_START = re.compile(r"""[.!?…]["'”’»)\]]*[^\S\n]+(?=\S)|[。！？](?=\S)|\n\s*(?=\S)""")
_HARD_BREAK = re.compile(r"(?<=\S)[^\S\n]*\n[^\S\n]*(?=\S)")


def tokenizer_of(model: str, *, trust: bool = False) -> Encode:
    """How a model's tokenizer encodes plain text; no token is added and none is special.

    It is loaded with the first text. `trust` runs tokenizer code that the model brings along.
    """

    @cache
    def load() -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(model, trust_remote_code=trust)

    def encode(texts: Sequence[str]) -> Sequence[Sequence[int]]:
        found = load()(
            list(texts), add_special_tokens=False, split_special_tokens=True, verbose=False
        )
        return found["input_ids"]  # type: ignore[no-any-return]

    return encode


class Tokenisations:
    """Tokenises texts; keeps what it found, so that only new texts take time.

    Args:
        encode: the served model's tokenizer.
        minimum_match: tokens of the shortest run that must not come out, unless a text has its own;
            at least 3.
    """

    def __init__(self, encode: Encode, minimum_match: int) -> None:
        self.minimum_match = minimum_match
        self._encode = encode
        self._known: dict[bytes, list[Tokens]] = {}
        self._used: dict[bytes, list[Tokens]] = {}
        self._kept = 0

    def of(self, text: str, minimum_match: int | None = None) -> list[Tokens]:
        """Sequences that hold every n-gram to register; the text's own tokenisation comes first.

        n is one less than the minimum match. A sequence of fewer than n tokens is a tokenisation of
        the whole text.
        """
        n = (minimum_match or self.minimum_match) - 1
        key = hashlib.sha256(b"%d " % n + text.encode("utf-8", "surrogatepass")).digest()
        found = self._used.get(key) or self._known.get(key)
        if found is None:
            found = self._tokenised(text.strip(), n)
        if key not in self._used and self._kept < _MOST_KEPT:
            self._used[key] = found
            self._kept += sum(map(len, found))
        return found

    def forget_unused(self) -> None:
        """Forget the texts that were not asked for since the last time."""
        self._known, self._used, self._kept = self._used, {}, 0

    def _tokenised(self, text: str, n: int) -> list[Tokens]:
        if not text:
            return []
        unwrapped = _HARD_BREAK.sub(" ", text)
        variants = [text] if unwrapped == text else [text, unwrapped]
        found = [np.array(ids, np.uint32) for ids in self._encode(variants)]
        for variant in variants:
            found += self._heads(variant, [0, *(m.end() for m in _START.finditer(variant))], n)
        return found

    def _heads(self, text: str, starts: list[int], n: int) -> list[Tokens]:
        """The first tokens of the text from each start on, as they are not inside the text."""
        enough = n - 1 + LEADING
        found: list[Tokens] = []
        reach = 6 * n + 32
        while starts:
            short = []
            encoded = self._encode([_elsewhere(text, start, reach) for start in starts])
            for start, ids in zip(starts, encoded, strict=True):
                to_end = start + reach >= len(text)
                if not to_end and len(ids) < enough + _CUT:
                    short.append(start)
                elif len(ids) >= n or start == 0:
                    found.append(np.array(ids[:enough], np.uint32))
            starts, reach = short, 2 * reach
        return found


def _elsewhere(text: str, start: int, reach: int) -> str:
    """The text from a start on, without the space before it, or with one where there is none."""
    part = text[start : start + reach]
    return f" {part}" if start == 0 or "\n" in text[start - 2 : start] else part
