"""Three real vocabularies: 131k tokens of bytes, a byte-fallback SentencePiece, and a small BPE."""

from __future__ import annotations

import base64
import importlib.util
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from server.bench.errors import InputMissing

_TEKKEN = "tekken_240911.json"
_SENTENCEPIECE = "mistral_instruct_tokenizer_240323.model.v3"
_BPE_SIZE = 8000


@dataclass(frozen=True, slots=True)
class RealVocabulary:
    """A tokenizer: the bytes of each token id (None for special ones), and how it encodes a text.

    `encode` keeps a leading space as the tokenizer would see it inside a text.
    """

    name: str
    tokens: tuple[bytes | None, ...]
    encode: Callable[[str], list[int]]


def real_vocabularies() -> list[RealVocabulary]:
    """All three.

    Raises:
        InputMissing: mistral_common, which vLLM brings, is not installed.
    """
    return [tekken(), byte_fallback(), byte_level()]


@cache
def tekken() -> RealVocabulary:
    """Mistral's tekken, 131,072 tokens of bytes."""
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer

    content = json.loads(_data(_TEKKEN).read_bytes())
    special, size = (
        content["config"][f"default_{k}"] for k in ("num_special_tokens", "vocab_size")
    )
    plain = [base64.b64decode(t["token_bytes"]) for t in content["vocab"][: size - special]]
    tokenizer = Tekkenizer.from_file(_data(_TEKKEN))
    return RealVocabulary(
        "tekken",
        (*[None] * special, *plain),
        lambda text: list(tokenizer.encode(text, bos=False, eos=False)),
    )


@cache
def byte_fallback() -> RealVocabulary:
    """Mistral's third SentencePiece model, 32,768 pieces, those for single bytes among them."""
    from sentencepiece import SentencePieceProcessor

    model = SentencePieceProcessor(model_file=str(_data(_SENTENCEPIECE)))
    pieces = [_piece(model, i) for i in range(model.vocab_size())]
    return RealVocabulary("byte_fallback", tuple(pieces), lambda text: list(model.encode(text)))


@cache
def byte_level() -> RealVocabulary:
    """A byte-level BPE of 8,000 tokens, trained here on the shipped prompts and frequent words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from wordfreq import top_n_list

    from detectors.benign import benign_prompts

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_BPE_SIZE,
        special_tokens=["<|end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    words = [word for language in ("en", "fr", "ru", "ja") for word in top_n_list(language, 10_000)]
    tokenizer.train_from_iterator([*benign_prompts(), " ".join(words)], trainer)
    ids = tokenizer.get_vocab()
    tokens = [_byte_level_piece(piece) for piece in sorted(ids, key=ids.__getitem__)[1:]]
    return RealVocabulary("byte_level", (None, *tokens), lambda text: tokenizer.encode(text).ids)


def _piece(model: Any, token: int) -> bytes | None:
    if model.is_control(token) or model.is_unknown(token):
        return None
    piece: str = model.id_to_piece(token)
    if model.is_byte(token):
        return bytes([int(piece[3:5], 16)])
    return piece.replace("\u2581", " ").encode()


def _byte_level_piece(piece: str) -> bytes:
    return bytes(_byte_of()[char] for char in piece)


@cache
def _byte_of() -> dict[str, int]:
    """GPT-2's table: printable bytes stand for themselves, the others for 256 and upwards."""
    printable = [*_codes("!", "~"), *_codes("¡", "¬"), *_codes("®", "ÿ")]
    others = (b for b in range(256) if b not in printable)
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


def _codes(first: str, last: str) -> Iterable[int]:
    return range(ord(first), ord(last) + 1)


def _data(name: str) -> Path:
    spec = importlib.util.find_spec("mistral_common")
    if spec is None or spec.origin is None:
        raise InputMissing("mistral_common is not installed, and its tokenizers are needed")
    return Path(spec.origin).parent / "data" / name
