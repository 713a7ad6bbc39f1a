"""The word view and the background frequencies that provenance is judged with.

`tracing` knows neither the normaliser nor a language; both are put together here, once, so that the
process that writes an index and those that search it agree.
"""

from __future__ import annotations

from functools import lru_cache

from detectors.lexicon import zipf_anywhere
from detectors.normaliser import NORMALISER_VERSION, fold, fold_with_origins, is_word_char
from tracing.bci import Unigrams
from tracing.words import Folding, WordView

# A character that is a word by itself (Han, kana, Hangul): the lists hold words, not characters.
_CHARACTER_SHARE = 1e-3


@lru_cache(maxsize=1)
def word_view() -> WordView:
    """The word view of every provenance index."""
    return WordView(Folding(NORMALISER_VERSION, fold, fold_with_origins, is_word_char))


@lru_cache(maxsize=1)
def background() -> Unigrams:
    """Surprisal of folded words; loads the frequency lists of all languages, about a second."""
    for word in ("the", "и", "και"):
        zipf_anywhere(word)
    return Unigrams(_share)


def _share(word: str) -> float:
    if len(word) == 1 and not word.isascii():
        return _CHARACTER_SHARE
    found = zipf_anywhere(word)
    return float(10 ** (found - 9)) if found > 0 else 0.0
