"""Which model and which tokenizer an assistant belongs to."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from guard.errors import AssistantMismatch, ModelUnreadable
from guard.vocabulary import Vocabulary

_SAMPLES = 64
_BLOCK = 4096
# What decides the shape of the computation; the rest of a config is names and versions.
_IGNORED = frozenset(
    {"_name_or_path", "transformers_version", "use_cache", "dtype", "torch_dtype", "architectures"}
)


def model_folder(model: str) -> Path:
    """Where a model's files are: a local folder, or the hub's cache (downloaded if need be).

    Raises:
        ModelUnreadable: there is no such model.
    """
    if Path(model).is_dir():
        return Path(model)
    from transformers.utils import cached_file

    try:
        return Path(str(cached_file(model, "config.json"))).parent
    except OSError:
        raise ModelUnreadable(f"there is no model {model}") from None


def model_fingerprint(folder: Path) -> str:
    """SHA-256 over a model's config and samples of its weights.

    Of each safetensors file: the header (names, shapes, types) and 64 blocks of 4 KiB, evenly
    spaced. Further training changes practically every weight, so it is noticed, at no cost worth
    mentioning for a model of any size.

    Raises:
        ModelUnreadable: config or weights are missing.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ModelUnreadable(f"{folder} holds no readable config.json") from None
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelUnreadable(f"{folder} holds no safetensors weights")
    kept = {key: value for key, value in config.items() if key not in _IGNORED}
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True).encode())
    for path in files:
        _sample(path, digest)
    return digest.hexdigest()


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """The same that policy snapshots carry: SHA-256 over the bytes of all tokens.

    Raises:
        VocabularyError: the tokenizer's bytes could not be established.
    """
    return Vocabulary.from_tokenizer(tokenizer).fingerprint


def expect(what: str, stated: str, found: str) -> None:
    """Refuse an assistant that was made for something else.

    Raises:
        AssistantMismatch: the fingerprints differ.
    """
    if stated != found:
        raise AssistantMismatch(
            f"the assistant was trained for another {what} "
            f"(fingerprint {stated[:12]}, this one has {found[:12]})"
        )


def _sample(path: Path, digest: Any) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(8)
        digest.update(header + file.read(int.from_bytes(header, "little")))
        begin = file.tell()
        for number in range(_SAMPLES):
            file.seek(begin + (size - begin) * number // _SAMPLES)
            digest.update(file.read(_BLOCK))
