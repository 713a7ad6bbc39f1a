"""The passes of our own give the library's embeddings, and are used only where they do."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detectors.encoder import SentenceEncoder, load_encoder
from detectors.packed_bert import PackedBert, multiplies_bf16
from detectors.padded_bert import PaddedBert

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def model(encoder: SentenceEncoder):
    """The sentence-transformers model itself."""
    return encoder._model


def library(model, texts):
    vectors = model.encode(list(texts), show_progress_bar=False, convert_to_numpy=True)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def exact(model) -> PackedBert:
    """The pass with all products in fp32."""
    return PackedBert(model)


@pytest.fixture(scope="module")
def halved(model) -> PackedBert:
    """The pass with products in bf16, which any processor can compute, some slowly."""
    found = PackedBert(model)
    found.halve()
    return found


def test_the_default_encoder_uses_it(encoder: SentenceEncoder, exact, halved) -> None:
    """On a CPU, with the products that it is good at."""
    same = halved if multiplies_bf16() else exact
    texts = ["Who?", "Where was the author born?"]

    assert isinstance(encoder._pass, PackedBert)
    assert torch.equal(encoder._pass.encode(texts), same.encode(texts))
    assert not torch.equal(exact.encode(texts), halved.encode(texts))


def test_products_that_lose_too_much_stay_in_fp32(model, exact, monkeypatch) -> None:
    """A model whose numbers are too large or too close for bf16 is left as it is."""

    def halve_badly(self) -> None:
        self._layers = self._layers[:2]

    monkeypatch.setattr("detectors.packed_bert.multiplies_bf16", lambda: True)
    monkeypatch.setattr(PackedBert, "halve", halve_badly)

    assert torch.equal(PackedBert.of(model).encode(["Who?"]), exact.encode(["Who?"]))


@pytest.mark.parametrize(
    ("said", "multiplies"),
    [
        ("flags\t\t: fpu avx2 avx512f\n", False),
        ("processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16 sha_ni\n", True),
        ("flags\t\t: fpu amx_bf16\n", True),
        ("Features\t: fp asimd bf16\n", False),
        ("", False),
    ],
)
def test_what_a_processor_multiplies(tmp_path, said: str, multiplies: bool) -> None:
    """By its flags; where Linux tells nothing, products stay in fp32."""
    (tmp_path / "cpuinfo").write_text(said)

    assert multiplies_bf16(tmp_path / "cpuinfo") is multiplies
    assert not multiplies_bf16(tmp_path / "missing")


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    texts=st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=80), min_size=1, max_size=6
    )
)
def test_it_gives_the_librarys_embeddings(model, exact, halved, texts) -> None:
    """Of any texts, of any lengths side by side, the empty one among them."""
    expected = library(model, texts)

    assert np.abs(exact.encode(texts).numpy() - expected).max() < 1e-5
    assert (halved.encode(texts).numpy() * expected).sum(1).min() > 0.999


def test_long_texts_are_cut_alike(model, exact) -> None:
    """After the model's most tokens."""
    texts = ["a word " * 400, "short", "another word " * 300]

    assert np.abs(exact.encode(texts).numpy() - library(model, texts)).max() < 1e-5


def test_a_text_has_one_embedding(encoder: SentenceEncoder, exact) -> None:
    """Whatever stands beside it, up to rounding."""
    texts = [f"question number {number}" for number in range(70)]
    alone, exactly = (
        np.concatenate([np.asarray(one.encode([text])) for text in texts])
        for one in (encoder, exact)
    )

    assert (encoder.encode(texts) * alone).sum(1).min() > 0.9999
    assert np.abs(exact.encode(texts).numpy() - exactly).max() < 1e-5


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


def test_the_padded_pass_gives_them_too(model, exact) -> None:
    """Of texts of one length and of many, the empty one and one that is cut among them."""
    padded = PaddedBert(model)
    for texts in (["one"], ["one", "two"], ["", "Who?", "a word " * 400, "was 日本 born in 1960?"]):
        found = padded.encode(texts).numpy()

        assert np.abs(found - library(model, texts)).max() < 1e-5
        assert np.abs(found - exact.encode(texts).numpy()).max() < 1e-5


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
