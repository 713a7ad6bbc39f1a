"""Words of a vocabulary and their embeddings, made once for each tokenizer and encoder.

The embeddings are kept in chunks on disk, each written whole, so that what was interrupted goes on
where it stopped. They tell nothing about any target.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from detectors.encoder import Encoder
from detectors.lexicon import is_frame_word, is_function_word, zipf, zipf_anywhere
from detectors.normaliser import fold, is_word_char
from guard.vocabulary import Vocabulary

WORDS_VERSION = "1"
CHUNK = 1024

Float16 = npt.NDArray[np.float16]
Int32 = npt.NDArray[np.int32]

_MIN_LETTERS = 3
# Rarer letter sequences are mostly pieces of words, which mean nothing.
_KNOWN_ZIPF = 2.5


@dataclass(frozen=True, slots=True)
class VocabularyWords:
    """The known words that are one token with or without a space in front. W words, N tokens.

    Function and frame words are left out: they are never vetoed or penalised.

    Attributes:
        words: [W] folded, in order of the alphabet.
        start: [W + 1] int32 row pointers into `token`.
        token: [N] int32 token ids that spell the word.
    """

    words: tuple[str, ...]
    start: Int32
    token: Int32

    @classmethod
    def of(cls, vocabulary: Vocabulary) -> VocabularyWords:
        """Read them out of a vocabulary."""
        spelled: dict[str, list[int]] = {}
        for token in range(vocabulary.size):
            try:
                text = vocabulary.raw(token).decode()
            except UnicodeDecodeError:
                continue
            word = fold(text).strip()
            if len(word) >= _MIN_LETTERS and word.isalpha():
                spelled.setdefault(word, []).append(token)
        words = tuple(sorted(filter(_is_telling, spelled)))
        lengths = [0, *(len(spelled[word]) for word in words)]
        tokens = [token for word in words for token in spelled[word]]
        return cls(words, np.cumsum(lengths).astype(np.int32), np.array(tokens, np.int32))

    def tokens(self, row: int) -> list[int]:
        """The token ids of one word."""
        found: list[int] = self.token[self.start[row] : self.start[row + 1]].tolist()
        return found


def embed_words(
    words: tuple[str, ...],
    encoder: Encoder,
    cache: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Float16:
    """Embeddings [W, dimension] of words, from `cache` where they are there already.

    `progress` is called with the words that are done and all of them, first before anything is
    encoded, and may raise to stop. Embeddings of other tokenizers and encoders are removed.
    """
    root = cache / "words"
    place = root / _key(words, encoder)
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    for other in root.iterdir():
        if other != place:
            shutil.rmtree(other, ignore_errors=True)
    parts = [np.zeros((0, encoder.dimension), np.float16)]
    for first in range(0, len(words), CHUNK):
        chunk = words[first : first + CHUNK]
        file = place / f"{first // CHUNK:05}.npy"
        part = _read(file, (len(chunk), encoder.dimension))
        if part is None:
            progress(first, len(words))
            part = encoder.encode(chunk).astype(np.float16)
            _write(file, part)
        parts.append(part)
    return np.concatenate(parts)


def _is_telling(word: str) -> bool:
    known = zipf(word) if word.isascii() else zipf_anywhere(word)
    if known < _KNOWN_ZIPF or not all(map(is_word_char, word)):
        return False
    return not (is_function_word(word) or is_frame_word(word))


def _key(words: tuple[str, ...], encoder: Encoder) -> str:
    content = "\0".join((WORDS_VERSION, encoder.id, *words))
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _read(file: Path, shape: tuple[int, int]) -> Float16 | None:
    try:
        found: Float16 = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found if found.shape == shape and found.dtype == np.float16 else None


def _write(file: Path, part: Float16) -> None:
    draft = file.with_suffix(f".{os.getpid()}.draft")
    with draft.open("wb") as output:
        np.save(output, part, allow_pickle=False)
    draft.replace(file)
