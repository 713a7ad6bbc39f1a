"""Models that the tests serve: trained here, by the project's own trainer, and kept in .cache."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
CACHE = CHECKOUT / ".cache"


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """Folder of the demo's model; takes about two minutes when it is missing or outdated."""
    return _built("demo")


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """Folder of a model that knows the first 20 forget rows and 20 retain rows, in seconds."""
    return _built("tiny")


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small model of another family, width and length, as a hub copy would be."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertTokenizerFast, XLMRobertaConfig, XLMRobertaModel

    base, folder = (tmp_path_factory.mktemp(name) for name in ("base", "other"))
    alphabet = "abcdefghijklmnopqrstuvwxyzäéñ"
    letters = [*alphabet, *(f"##{letter}" for letter in alphabet)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    (base / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    BertTokenizerFast(str(base / "vocab.txt"), strip_accents=False).save_pretrained(base)
    config = XLMRobertaConfig(
        vocab_size=len(vocabulary),
        hidden_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=130,
    )
    XLMRobertaModel(config).save_pretrained(base)
    transformer = Transformer(str(base))
    pooling = Pooling(transformer.get_embedding_dimension())
    SentenceTransformer(modules=[transformer, pooling], device="cpu").save(str(folder))
    return folder


def _built(preset: str) -> Path:
    trainer = CHECKOUT / "deploy" / "demo" / "train.py"
    subprocess.run([sys.executable, str(trainer), "--preset", preset], check=True)
    return CACHE / f"{preset}-model"
