"""The guard's compiler and pointer, as the job worker uses them.

Importing this module imports nothing heavy; encoder and tokenizer load with `GuardCompiler`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt

from detectors.encoder import Encoder
from detectors.normaliser import NORMALISER_VERSION
from detectors.targets import Example, ForgetTarget
from guard.follower import ActivePointer, followers
from server.policy import Compilation, FollowerStatus, Pointer
from server.settings import Settings

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
        from guard.compiler import COMPILER_VERSION
        from guard.snapshot import FORMAT, discard_drafts
        from guard.vocabulary import Vocabulary

        discard_drafts(settings.snapshots)
        # Unless told otherwise not on the GPU: vLLM counts on finding its memory free.
        device = "cpu" if settings.encoder_device == "auto" else settings.encoder_device
        encoder = load_encoder(settings.encoder, device=device)
        self._cache = EmbeddingCache(encoder, settings.cache / "embeddings.db")
        extract(_WARM_UP)
        self._vocabulary = Vocabulary.load(tokenizer, trust=trust_remote_code)
        self._snapshots = settings.snapshots
        self._alpha = settings.alpha
        parts = (
            f"lethegate-{version('lethegate')}",
            f"snapshot-{FORMAT}",
            f"compiler-{COMPILER_VERSION}",
            f"normaliser-{NORMALISER_VERSION}",
            f"vocabulary-{self._vocabulary.fingerprint}",
            f"encoder-{encoder.id}",
            f"alpha-{settings.alpha}",
        )
        self.fingerprint = " ".join(parts)

    def compile(
        self, targets: Sequence[ForgetTarget], progress: Callable[[str, float], None]
    ) -> Compilation:
        """Compile all targets into a snapshot; embeddings of texts that left are forgotten.

        Raises:
            CompileError: these targets cannot be compiled.
        """
        from guard.compiler import compile_policy

        encoder = _Recorder(self._cache)
        compiled = compile_policy(
            targets,
            encoder=encoder,
            vocabulary=self._vocabulary,
            snapshots=self._snapshots,
            alpha=self._alpha,
            progress=progress,
        )
        self._cache.keep_only(encoder.texts)
        return Compilation(compiled.digest, compiled.reports)

    def close(self) -> None:
        """Close the cache of embeddings."""
        self._cache.close()


class SnapshotPublisher:
    """The pointer file, the followers' files and the snapshot directories."""

    def __init__(self, state_dir: Path, snapshots: Path) -> None:
        self._state_dir = state_dir
        self._snapshots = snapshots
        self._pointer = ActivePointer(state_dir)

    def read(self) -> Pointer | None:
        """What the pointer names; None before the first policy."""
        active = self._pointer.read()
        return None if active is None else Pointer(active.generation, active.digest)

    def publish(self, generation: int, digest: str) -> None:
        """Move the pointer, durably and in one step."""
        self._pointer.publish(generation, digest)

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
