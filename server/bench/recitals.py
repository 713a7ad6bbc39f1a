"""How much of a text another one gives back: longest runs in common, in tokens and in words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from guard.tokenisations import Encode

_WORD = re.compile(r"\w+")


def longest_common_run(left: Sequence[object], right: Sequence[object]) -> int:
    """Length of the longest run that both sequences have."""
    best, longer = 0, _runs(right, 1)
    for start in range(len(left)):
        while start + best < len(left) and tuple(left[start : start + best + 1]) in longer:
            best += 1
            longer = _runs(right, best + 1)
    return best


def _runs(sequence: Sequence[object], length: int) -> set[tuple[object, ...]]:
    return {tuple(sequence[i : i + length]) for i in range(len(sequence) - length + 1)}


def recited_figures(
    generations: dict[str, list[str]],
    documents: Sequence[str],
    minimum_match: int,
    encode: Encode,
) -> dict[str, Any]:
    """Per arm how many generations recite, and the longest runs of tokens and words.

    `recited` have a run of `minimum_match` tokens in common with a document, both as the tokenizer
    spells them; `recited_words` one of as many words, however it was spelled in tokens.
    """
    tokens = [list(ids) for ids in encode(documents)]
    words = [_WORD.findall(document.lower()) for document in documents]
    found: dict[str, Any] = {}
    for arm, texts in generations.items():
        distinct = sorted(set(texts))
        spelled = dict(zip(distinct, encode(distinct), strict=True))
        in_tokens = {t: max(longest_common_run(spelled[t], d) for d in tokens) for t in distinct}
        in_words = {
            t: max(longest_common_run(_WORD.findall(t.lower()), d) for d in words) for t in distinct
        }
        found |= {
            f"generations_{arm}": len(texts),
            f"distinct_generations_{arm}": len(distinct),
            f"recited_{arm}": sum(in_tokens[text] >= minimum_match for text in texts),
            f"recited_words_{arm}": sum(in_words[text] >= minimum_match for text in texts),
            f"longest_run_tokens_{arm}": max(in_tokens.values()),
            f"longest_run_words_{arm}": max(in_words.values()),
        }
    return found
