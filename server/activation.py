"""The guard's compiler and pointer, as the job worker uses them.

Importing this module imports nothing heavy; encoder and tokenizer load with `GuardCompiler`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from detectors.encoder import Encoder
from detectors.normaliser import NORMALISER_VERSION
from detectors.targets import Example, ForgetTarget
from guard.errors import PointerFenced
from guard.follower import ActivePointer, followers
from guard.uld.shelf import Shelf
from guard.vetoed import VetoedCorpus
from server.errors import LeaseLost
from server.log import get_logger
from server.policy import Compilation, FollowerStatus, Pointer
from server.settings import Settings

if TYPE_CHECKING:
    from guard.semantic_meanings import Meanings

log = get_logger("activation")

_LOG_SECONDS = 10.0

# Extracting loads word frequencies, which takes seconds: once at the start, not in the first job.
_WARM_UP = ForgetTarget("warm-up", examples=(Example("Who?", "Nobody."),))


class GuardCompiler:
    """Compiles targets with the served model's tokenizer and the configured encoder."""

    def __init__(
        self, settings: Settings, tokenizer: str, *, trust_remote_code: bool = False
    ) -> None:
        """Load tokenizer and encoder; takes seconds.

        Raises:
            VocabularyError: the tokenizer's bytes could not be established.
            EncoderUnavailable: the encoder could not be loaded.
        """
        from detectors.embedding_cache import EmbeddingCache
        from detectors.encoder import load_encoder
        from detectors.extraction import extract
        from guard.snapshot import COMPILER_VERSION, FORMAT, discard_drafts
        from guard.tokenisations import Tokenisations, tokenizer_of
        from guard.vocabulary import Vocabulary

        discard_drafts(settings.snapshots)
        # Unless told otherwise not on the GPU: vLLM counts on finding its memory free.
        device = "cpu" if settings.encoder_device == "auto" else settings.encoder_device
        encoder = load_encoder(settings.encoder, device=device)
        self._cache = EmbeddingCache(encoder, settings.cache / "embeddings.db")
        extract(_WARM_UP)
        self._vocabulary = Vocabulary.load(tokenizer, trust=trust_remote_code)
        encode = tokenizer_of(tokenizer, trust=trust_remote_code)
        self._tokenisations = Tokenisations(encode, settings.minimum_match_tokens)
        self._snapshots = settings.snapshots
        self._assistants = settings.assistants
        self._alpha = settings.alpha
        self._words_cache = settings.cache if settings.semantic_filter else None
        self._encoder = encoder
        self._meanings: Meanings | None = None
        parts = (
            f"lethegate-{version('lethegate')}",
            f"snapshot-{FORMAT}",
            f"compiler-{COMPILER_VERSION}",
            f"normaliser-{NORMALISER_VERSION}",
            f"vocabulary-{self._vocabulary.fingerprint}",
            f"encoder-{encoder.id}",
            f"alpha-{settings.alpha}",
            f"semantic-{settings.semantic_filter}",
            f"minimum-match-{settings.minimum_match_tokens}",
        )
        self.fingerprint = " ".join(parts)

    def compile(
        self,
        targets: Sequence[ForgetTarget],
        progress: Callable[[str, float], None],
        corpora: Sequence[VetoedCorpus] = (),
    ) -> Compilation:
        """Compile all targets into a snapshot; embeddings of texts that left are forgotten.

        Raises:
            CompileError: these targets cannot be compiled.
        """
        from guard.compiler import compile_policy

        meanings = self._words(progress) if targets else None
        encoder = _Recorder(self._cache)
        compiled = compile_policy(
            targets,
            encoder=encoder,
            vocabulary=self._vocabulary,
            snapshots=self._snapshots,
            alpha=self._alpha,
            progress=progress,
            meanings=meanings,
            tokenisations=self._tokenisations,
            assistants=Shelf(self._assistants).registered(),
            corpora=corpora,
        )
        self._cache.keep_only(encoder.texts)
        return Compilation(compiled.digest, compiled.reports)

    def preview(self, target: ForgetTarget, others: Sequence[ForgetTarget]) -> Mapping[str, Any]:
        """The calibration report that `target` would have beside `others`; nothing is kept."""
        from detectors.benign import benign_prompts
        from detectors.classifier import build_tables

        tables = build_tables(
            [target, *others], self._cache.unsaved, alpha=self._alpha, benign=benign_prompts()
        )
        return tables.reports[target.id]

    def _words(self, progress: Callable[[str, float], None]) -> Meanings | None:
        """The vocabulary's words for the semantic filter; embedding them anew takes a while."""
        if self._words_cache is None or self._meanings is not None:
            return self._meanings
        from guard.semantic_meanings import Meanings
        from guard.semantic_words import VocabularyWords, embed_words

        words = VocabularyWords.of(self._vocabulary)
        began = time.monotonic()
        told = 0.0

        def show(done: int, total: int) -> None:
            nonlocal told
            progress(f"embedding the vocabulary: {done} of {total} words", 0.1 * done / total)
            if time.monotonic() - told >= _LOG_SECONDS:
                told = time.monotonic()
                log.info("vocabulary_embedding", done=done, total=total)

        embeddings = embed_words(words.words, self._encoder, self._words_cache, show)
        seconds = round(time.monotonic() - began, 1)
        log.info("vocabulary_embedded", words=len(words.words), seconds=seconds)
        self._meanings = Meanings(words, embeddings)
        return self._meanings

    def close(self) -> None:
        """Close the cache of embeddings."""
        self._cache.close()


class SnapshotPublisher:
    """The pointer file, the followers' files and the snapshot directories."""

    def __init__(self, state_dir: Path, snapshots: Path) -> None:
        self._state_dir = state_dir
        self._snapshots = snapshots
        self._pointer = ActivePointer(state_dir)
        self._epoch = 0

    def read(self) -> Pointer | None:
        """What the pointer names; None before the first policy."""
        active = self._pointer.read()
        return None if active is None else Pointer(active.generation, active.digest)

    def claim(self, epoch: int) -> None:
        """Keep those who led before the lead `epoch` from moving the pointer.

        Raises:
            LeaseLost: another process leads by now.
        """
        with _as_lease_lost():
            self._pointer.claim(epoch)
        self._epoch = epoch

    def publish(self, generation: int, digest: str) -> None:
        """Move the pointer, durably and in one step.

        Raises:
            LeaseLost: another process leads by now; the pointer stays as it is.
        """
        with _as_lease_lost():
            self._pointer.publish(generation, digest, self._epoch)

    def followers(self) -> list[FollowerStatus]:
        """The live gateways and workers."""
        return [
            FollowerStatus(
                kind=state.kind,
                pid=state.pid,
                generation=state.generation or None,
                digest=state.digest or None,
                failed_generation=state.failed_generation or None,
                error=state.error or None,
            )
            for state in followers(self._state_dir)
        ]

    def holds(self, digest: str) -> bool:
        """Whether the snapshot of this digest is there (written whole, then renamed)."""
        return (self._snapshots / digest).is_dir()


@contextmanager
def _as_lease_lost() -> Iterator[None]:
    try:
        yield
    except PointerFenced:
        raise LeaseLost("another control process leads") from None


class _Recorder:
    """An encoder that notes the texts it was given."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.texts: set[str] = set()

    @property
    def id(self) -> str:
        return self._encoder.id

    @property
    def dimension(self) -> int:
        return self._encoder.dimension

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        self.texts.update(texts)
        return self._encoder.encode(texts)
