"""The passes of our own give the library's embeddings, and are used only where they do."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detectors.encoder import SentenceEncoder, load_encoder
from detectors.packed_bert import PackedBert
from detectors.padded_bert import PaddedBert

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def model(encoder: SentenceEncoder):
    """The sentence-transformers model itself."""
    return encoder._model


def library(model, texts):
    vectors = model.encode(list(texts), show_progress_bar=False, convert_to_numpy=True)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_the_default_encoder_uses_it(encoder: SentenceEncoder) -> None:
    """On a CPU, in fp32."""
    assert isinstance(encoder._pass, PackedBert)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    texts=st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=80), min_size=1, max_size=6
    )
)
def test_it_gives_the_librarys_embeddings(model, encoder: SentenceEncoder, texts) -> None:
    """Of any texts, of any lengths side by side, the empty one among them."""
    assert np.abs(encoder.encode(texts) - library(model, texts)).max() < 1e-5


def test_long_texts_are_cut_alike(model, encoder: SentenceEncoder) -> None:
    """After the model's most tokens."""
    texts = ["a word " * 400, "short", "another word " * 300]

    assert np.abs(encoder.encode(texts) - library(model, texts)).max() < 1e-5


def test_a_text_has_one_embedding(encoder: SentenceEncoder) -> None:
    """Whatever stands beside it, up to rounding."""
    texts = [f"question number {number}" for number in range(70)]
    alone = np.concatenate([encoder.encode([text]) for text in texts])

    assert np.abs(encoder.encode(texts) - alone).max() < 1e-5


def test_another_architecture_keeps_the_librarys_pass(model, monkeypatch) -> None:
    """By its configuration, or because the vectors differ."""
    config = model[0].auto_model.config
    with monkeypatch.context() as patch:
        patch.setattr(config, "hidden_act", "relu")
        assert PackedBert.of(model) is None

    norm = model[0].auto_model.embeddings.LayerNorm
    real = norm.forward
    with monkeypatch.context() as patch:
        # Something that the configuration does not tell.
        patch.setattr(norm, "forward", lambda states: real(states) * torch.tensor([1.0, 0.5] * 192))
        patch.setattr(PackedBert, "_embed", lambda self, ids: torch.ones(sum(map(len, ids)), 384))
        assert PackedBert.of(model) is None


def test_the_padded_pass_gives_them_too(model, encoder: SentenceEncoder) -> None:
    """Of texts of one length and of many, the empty one and one that is cut among them."""
    padded = PaddedBert(model)
    for texts in (["one"], ["one", "two"], ["", "Who?", "a word " * 400, "was 日本 born in 1960?"]):
        found = padded.encode(texts).numpy()

        assert np.abs(found - library(model, texts)).max() < 1e-5
        assert np.abs(found - encoder.encode(texts)).max() < 1e-5


def test_the_padded_pass_is_for_gpus(model) -> None:
    """On a CPU the other one is faster."""
    assert PaddedBert.of(model) is None
    assert PaddedBert.suits(SimpleNamespace(device=torch.device("cuda", 0)))


@pytest.mark.gpu
def test_on_a_gpu_the_padded_pass_is_used() -> None:
    """In bf16, near the CPU's fp32."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    ours, exact = load_encoder(device="cuda"), load_encoder(device="cpu")
    texts = ["Who?", "Where was the author born?", "a word " * 60]

    assert isinstance(ours._pass, PaddedBert)
    assert ours.on_gpu
    assert (ours.encode(texts) * exact.encode(texts)).sum(1).min() > 0.999
