"""A tokenizer's vocabulary as bytes, folded and sorted for the token automaton.

Every token is reduced once to what it adds to the folded stream (`guard.stream`): its *body*. A
body carries the word borders inside the token but not one at its very beginning, which depends on
the text before it and is added while walking. A token may end inside a UTF-8 character; the
unfinished bytes are its *pending* bytes and are completed by the next token.

Special tokens are transparent: detokenisers drop them, so text goes on across them.
"""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, pairwise, repeat
from typing import Any

import numpy as np
import numpy.typing as npt

from detectors.normaliser import NORMALISER_VERSION, fold
from guard.errors import VocabularyError
from guard.stream import WORD_START, CharClass, Streams, char_class, stream, streams

_ROUND_TRIPS = (
    "The quick brown fox's 3,141 naïve “jumps” — over\n\tthe lazy dog.",
    "Ünïcode: Łódź, Ελλάδα, Москва, 東京, ไทย, 🦊🏽 ﬁn.",
)


@dataclass(frozen=True, slots=True)
class Body:
    """What a run of bytes adds to the stream, and the bytes it leaves unfinished."""

    stream: bytes
    first: CharClass
    last: CharClass
    pending: bytes


@dataclass(frozen=True, slots=True)
class Continuations:
    """The tokens that can finish one pending byte run, with the bodies they have after it."""

    tokens: npt.NDArray[np.int32]
    bodies: Streams


@dataclass(frozen=True, slots=True)
class Prefixes:
    """For token t the tokens[start[t]:start[t + 1]]; start [V + 1] int32, tokens int32."""

    start: npt.NDArray[np.int32]
    tokens: npt.NDArray[np.int32]


class Vocabulary:
    """The bytes of every token id.

    Args:
        tokens: per token id its raw bytes; None for a special (transparent) token.

    Attributes:
        size: number of token ids, V.
        fingerprint: SHA-256 over tokens and normaliser version; two vocabularies with the same
            fingerprint give the same automaton.
        bodies: the bodies of all tokens that are met with no pending bytes.
        has_pending: [V] bool, whether the token ends inside a character.
        continues: [V] bool, whether the token begins inside a character.
        transparent: [V] bool, whether the token is special.
        weight: [V] int64, bytes that the token adds to any stream at least.
        order: [k] int32, ids of the tokens with a body, sorted by body bytes.
        ordered: the same bodies in that order.
    """

    def __init__(self, tokens: Sequence[bytes | None]) -> None:
        self._raw = tuple(tokens)
        self.size = len(self._raw)
        self.fingerprint = _fingerprint(self._raw)
        self.bodies, self._pending = bodies_of([raw or b"" for raw in self._raw])
        self.has_pending = np.fromiter(map(bool, self._pending), np.bool_, self.size)
        begins = (0x80 <= (raw or b"-")[0] < 0xC0 for raw in self._raw)
        self.continues = np.fromiter(begins, np.bool_, self.size)
        self.transparent = np.fromiter((raw is None for raw in self._raw), np.bool_, self.size)
        self.weight = _weight(self.bodies)
        self.order, self.ordered = _sorted(self.bodies)
        self._continue = lru_cache(maxsize=4096)(self._continuations_after)

    @classmethod
    def load(cls, model: str, *, revision: str | None = None, trust: bool = False) -> Vocabulary:
        """Read the tokenizer of a model by hub name or local path.

        Args:
            trust: run tokenizer code that the model brings along, as vLLM's
                `--trust-remote-code` does.

        Raises:
            VocabularyError: the tokenizer's bytes could not be established.
        """
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(model, revision=revision, trust_remote_code=trust)
        return cls.from_tokenizer(tokenizer)

    @classmethod
    def from_tokenizer(cls, tokenizer: Any, size: int | None = None) -> Vocabulary:
        """Read a transformers tokenizer; `size` is the model's (padded) vocabulary size.

        Raises:
            VocabularyError: token bytes do not reproduce what the tokenizer itself decodes.
        """
        import xgrammar

        size = max(len(tokenizer), size or 0)
        raw = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=size).decoded_vocab
        special = _special_ids(tokenizer)
        vocabulary = cls([None if i in special or not b else b for i, b in enumerate(raw)])
        vocabulary._verify(tokenizer)
        return vocabulary

    def after(self, pending: bytes, token: int) -> Body:
        """What a token adds when `pending` bytes stand before it."""
        raw = self._raw[token] if 0 <= token < self.size else None
        return (
            Body(b"", CharClass.NONE, CharClass.NONE, pending)
            if raw is None
            else body_of(pending + raw)
        )

    def recent(self, prompt: Sequence[int], output: Sequence[int], reach: int) -> Body:
        """The end of a text as one body: enough of it to hold any pattern of `reach` bytes.

        The output is read across special tokens, the prompt only from its last one on: what a user
        said does not run into the answer, but an answer that was begun for the model does.
        """
        parts: list[bytes] = []
        weight = 0
        for token, spoken in chain(
            zip(reversed(output), repeat(True)), zip(reversed(prompt), repeat(False))
        ):
            if weight > reach:
                break
            if not self.is_transparent(token):
                parts.append(self._raw[token] or b"")
                weight += int(self.weight[token])
            elif not spoken:
                break
        return body_of(b"".join(reversed(parts)))

    def raw(self, token: int) -> bytes:
        """The bytes of a token; none for a special one."""
        return self._raw[token] or b""

    def prefixes(self, never: Sequence[int] = ()) -> Prefixes:
        """Per token the others whose bytes are its bytes or begin them, but for those in `never`.

        Whoever may not say a token can begin with one of these to say the same.
        """
        barred = {*never, *np.flatnonzero(self.transparent).tolist()}
        ids: dict[bytes, list[int]] = {}
        for token, raw in enumerate(self._raw):
            if raw and token not in barred:
                ids.setdefault(raw, []).append(token)
        longest = max(map(len, ids), default=0)
        found: list[int] = []
        start = [0]
        for token, raw in enumerate(self._raw):
            for end in range(1, min(len(raw or b""), longest) + 1):
                same = ids.get((raw or b"")[:end], ())
                found.extend(other for other in same if other != token)
            start.append(len(found))
        return Prefixes(np.array(start, np.int32), np.array(found, np.int32))

    def pending_of(self, token: int) -> bytes:
        """The bytes that a token leaves unfinished."""
        return self._pending[token]

    def is_transparent(self, token: int) -> bool:
        """Whether a token is special, or padding outside the tokenizer."""
        return not 0 <= token < self.size or self._raw[token] is None

    def continuations(self, pending: bytes) -> Continuations:
        """Tokens that begin with UTF-8 continuation bytes, read after `pending` (1..3 bytes)."""
        return self._continue(pending)

    def _continuations_after(self, pending: bytes) -> Continuations:
        tokens = np.flatnonzero(self.continues)
        bodies, _ = bodies_of([pending + (self._raw[i] or b"") for i in tokens.tolist()])
        return Continuations(tokens.astype(np.int32), bodies)

    def _verify(self, tokenizer: Any) -> None:
        for text in _ROUND_TRIPS:
            ids = tokenizer.encode(text, add_special_tokens=False)
            raw = b"".join(self._raw[i] or b"" for i in ids)
            if fold(raw.decode(errors="replace")).strip() != fold(tokenizer.decode(ids)).strip():
                raise VocabularyError(
                    "the tokenizer's bytes do not spell what it decodes; its type is not supported"
                )


def body_of(raw: bytes) -> Body:
    """The body of a byte run that begins at a character."""
    text, pending = _decode(raw)
    folded = fold(text)
    if not folded:
        return Body(b"", CharClass.NONE, CharClass.NONE, pending)
    whole = stream(folded)
    return Body(
        whole[1:] if whole[0] == WORD_START else whole,
        char_class(folded[0]),
        char_class(folded[-1]),
        pending,
    )


def bodies_of(raw: Sequence[bytes]) -> tuple[Streams, list[bytes]]:
    """`body_of` of many byte runs at once: their bodies and what each leaves pending."""
    decoded = [_decode(one) for one in raw]
    whole = streams([fold(text) for text, _ in decoded])
    # A border at the very beginning depends on the text before.
    opening = whole.first == CharClass.WORD
    bytes_ = np.delete(whole.bytes, whole.start[:-1][opening])
    start = whole.start - np.concatenate([[0], np.cumsum(opening)])
    return Streams(bytes_, start, whole.first, whole.last), [pending for _, pending in decoded]


def _decode(raw: bytes) -> tuple[str, bytes]:
    """The text of a byte run and its last bytes if they do not finish a character."""
    try:
        return raw.decode(), b""
    except UnicodeDecodeError:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        return decoder.decode(raw), decoder.getstate()[0]


def _weight(bodies: Streams) -> npt.NDArray[np.int64]:
    """Length of each body without what may be less in a text.

    A long run of white space is one symbol; bytes that make no character by themselves may make one
    that is dropped.
    """
    raw = bodies.bytes
    counted = raw != 0x20
    broken = np.flatnonzero((raw[:-2] == 0xEF) & (raw[1:-1] == 0xBF) & (raw[2:] == 0xBD))
    for i in range(3):
        counted[broken + i] = False
    return np.diff(np.concatenate([[0], np.cumsum(counted)])[bodies.start])


def _sorted(bodies: Streams) -> tuple[npt.NDArray[np.int32], Streams]:
    """The tokens that have a body, sorted by it, and their bodies in that order."""
    flat, bounds = bodies.bytes.tobytes(), bodies.start.tolist()
    found = [flat[low:high] for low, high in pairwise(bounds)]
    order = np.array(sorted((i for i, b in enumerate(found) if b), key=found.__getitem__), np.int64)
    start = np.concatenate([[0], np.cumsum(np.diff(bodies.start)[order])])
    flat = b"".join([found[i] for i in order.tolist()])
    bytes_ = np.frombuffer(flat, np.uint8)
    ordered = Streams(bytes_, start, bodies.first[order], bodies.last[order])
    return order.astype(np.int32), ordered


def _special_ids(tokenizer: Any) -> set[int]:
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return set(tokenizer.all_special_ids) | {i for i, t in added.items() if t.special}


def _fingerprint(tokens: Sequence[bytes | None]) -> str:
    digest = hashlib.sha256(NORMALISER_VERSION.encode())
    # Padding at the end is the model's affair, not the tokenizer's.
    used = max((i + 1 for i, raw in enumerate(tokens) if raw is not None), default=0)
    for raw in tokens[:used]:
        digest.update(b"\xff" if raw is None else len(raw).to_bytes(4, "little") + raw)
    return digest.hexdigest()
