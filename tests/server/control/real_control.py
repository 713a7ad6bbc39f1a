"""A control process with the real compiler: `python real_control.py STATE_DIR PORT`.

Phrases, automaton, tables and snapshots are the real ones; only the models are small, so that it
starts quickly: embeddings are hashes, and the vocabulary is that of single bytes.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import SecretStr

import detectors.encoder
from detectors.targets import Example, ForgetTarget
from guard.compiler import compile_policy
from guard.vocabulary import Vocabulary
from server.activation import GuardCompiler, SnapshotPublisher
from server.control import serve_control
from server.settings import Settings
from server.state_dir import own_directory


class HashEncoder:
    """Unit vectors that depend on nothing but the text."""

    id = "hash"
    dimension = 64

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Embeddings [len(texts), 64]."""
        rows = [np.frombuffer(hashlib.sha512(t.encode()).digest(), np.uint8) for t in texts]
        vectors = np.array(rows, np.float32).reshape(len(texts), self.dimension) - 127.5
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit: npt.NDArray[np.float32] = (vectors / norms).astype(np.float32)
        return unit


def main(state_dir: Path, port: int) -> int:
    """Run until a signal."""
    settings = Settings(state_dir=state_dir, admin_port=port, admin_key=SecretStr("admin-key"))
    own_directory(state_dir)
    detectors.encoder.load_encoder = lambda *_, **__: HashEncoder()  # type: ignore
    Vocabulary.load = lambda *_, **__: Vocabulary([bytes([b]) for b in range(256)])  # type: ignore
    publisher = SnapshotPublisher(state_dir, settings.snapshots)
    return serve_control(settings, publisher, lambda: GuardCompiler(settings, "bytes"))


def run(arguments: Sequence[str]) -> int:
    """`main` with the arguments of a command line."""
    return main(Path(arguments[0]), int(arguments[1]))


def warm() -> None:
    """Load what the first compilation loads: word frequencies and compiled loops."""
    vocabulary = Vocabulary([bytes([b]) for b in range(256)])
    target = ForgetTarget("warm-up", examples=(Example("Who?", "Nobody of that name."),))
    with tempfile.TemporaryDirectory() as folder:
        compile_policy(
            [target],
            encoder=HashEncoder(),
            vocabulary=vocabulary,
            snapshots=Path(folder),
            alpha=0.005,
            progress=lambda stage, done: None,
        )


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
