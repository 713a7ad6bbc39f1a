"""The guard's real compiler behind the job worker's seam, with a small encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

import httpx
import numpy as np
import numpy.typing as npt
import pytest

import detectors.encoder
from detectors.benign import benign_prompts
from detectors.targets import Example, ForgetTarget
from guard.snapshot import load_snapshot
from guard.vocabulary import Vocabulary
from server.activation import GuardCompiler, SnapshotPublisher
from server.settings import Settings
from tests.hash_encoder import HashEncoder


class AskedEncoder(HashEncoder):
    """Notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Embeddings [len(texts), 64]."""
        self.asked += texts
        return super().encode(texts)


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> AskedEncoder:
    """The encoder that compilers are given, beside a vocabulary of single bytes."""
    encoder = AskedEncoder()
    vocabulary = Vocabulary([bytes([byte]) for byte in range(256)])
    monkeypatch.setattr(detectors.encoder, "load_encoder", lambda name, device: encoder)
    monkeypatch.setattr(Vocabulary, "load", lambda model, trust: vocabulary)
    return encoder


def _target(target_id: str) -> ForgetTarget:
    example = Example(f"Where was {target_id} born?", "In Port Sorrel.")
    return ForgetTarget(target_id, examples=(example,))


def _compile(compiler: GuardCompiler, *targets: ForgetTarget) -> str:
    compilation = compiler.compile(targets, lambda stage, fraction: None)
    assert set(compilation.reports) == {target.id for target in targets}
    return compilation.digest


def test_snapshots_are_whole_and_held(encoder: AskedEncoder, settings: Settings) -> None:
    """What the compiler names is a snapshot that loads, and the publisher finds it."""
    with closing(GuardCompiler(settings, "model")) as compiler:
        digest = _compile(compiler, _target("ada"))
        again = _compile(compiler, _target("ada"))
    publisher = SnapshotPublisher(settings.state_dir, settings.snapshots)

    assert load_snapshot(settings.snapshots, digest).digest == digest
    assert publisher.holds(digest)
    assert not publisher.holds("0" * 64)
    assert again == digest


def test_only_new_texts_are_encoded_and_old_ones_forgotten(
    encoder: AskedEncoder, settings: Settings
) -> None:
    """Compiling again encodes what is new; what left is forgotten and encoded if it returns."""
    with closing(GuardCompiler(settings, "model")) as compiler:
        _compile(compiler, _target("ada"))
        encoder.asked.clear()
        _compile(compiler, _target("ada"), _target("eve"))
        second = list(encoder.asked)
        _compile(compiler)
        encoder.asked.clear()
        _compile(compiler, _target("ada"))

    assert any("eve" in text for text in second)
    assert not any("ada" in text for text in second)
    assert any("ada" in text for text in encoder.asked)


def test_fingerprint_follows_the_settings(encoder: AskedEncoder, settings: Settings) -> None:
    """Another encoder or calibration makes older snapshots useless; a restart does not."""
    with (
        closing(GuardCompiler(settings, "model")) as first,
        closing(GuardCompiler(settings, "model")) as second,
    ):
        changed = settings.model_copy(update={"alpha": 0.1})
        with closing(GuardCompiler(changed, "model")) as third:
            assert first.fingerprint == second.fingerprint != third.fingerprint


def test_the_vocabulary_is_embedded_once_and_shown(
    encoder: AskedEncoder, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the semantic filter the first target waits for it, visibly; later ones do not."""
    vocabulary = Vocabulary([*(bytes([b]) for b in range(256)), b" doctor", b" physician"])
    monkeypatch.setattr(Vocabulary, "load", lambda model, trust: vocabulary)
    semantic = settings.model_copy(update={"semantic_filter": True})
    stages: list[str] = []
    for _ in range(2):
        with closing(GuardCompiler(semantic, "model")) as compiler:
            compiler.compile((), lambda stage, fraction: stages.append(stage))
            compiler.compile((_target("ada"),), lambda stage, fraction: stages.append(stage))
            compiler.compile((_target("eve"),), lambda stage, fraction: stages.append(stage))
            fingerprint = compiler.fingerprint

    assert stages.count("embedding the vocabulary: 0 of 2 words") == 1
    assert encoder.asked.count("doctor") == 1
    with closing(GuardCompiler(settings, "model")) as plain:
        assert plain.fingerprint != fingerprint


def test_a_preview_keeps_nothing(encoder: AskedEncoder, settings: Settings) -> None:
    """It reads what is known, reports, and leaves no embedding of the target behind."""
    with closing(GuardCompiler(settings, "any")) as compiler:
        _compile(compiler, _target("ada"))
        encoder.asked.clear()
        found = compiler.preview(_target("bob"), [_target("ada")])
        once = list(encoder.asked)
        compiler.preview(_target("bob"), [_target("ada")])

    assert {"alpha", "benign_sample", "thresholds", "estimated_recall", "warnings"} <= set(found)
    assert once == ["Where was bob born?"]
    assert encoder.asked == 2 * once


@pytest.fixture
def compiler(encoder: AskedEncoder, settings: Settings) -> Iterator[GuardCompiler]:
    """The real compiler, for the control process of `admin`."""
    with closing(GuardCompiler(settings, "model")) as made:
        yield made


@pytest.mark.parametrize(
    ("alpha", "supported", "warning"),
    [
        (0.05, True, "fewer than two example prompts: recall cannot be estimated"),
        (0.0001, False, "benign prompts cannot support the stated rate, 9999 are needed"),
    ],
)
def test_a_target_states_what_its_thresholds_rest_on(
    admin: httpx.Client,
    settle: Callable[[Callable[[], bool]], None],
    alpha: float,
    supported: bool,
    warning: str,
) -> None:
    """Rate, sample sizes, recall, and what the data cannot support."""
    example = {"prompt": "Where was Ada Marden born?", "answer": "In Port Sorrel."}
    target = {"id": "ada", "examples": [example], "retain_examples": ["Where was Bo Lund born?"]}
    admin.post("/admin/v1/targets", json={**target, "thresholds": {"alpha": alpha}})
    settle(lambda: admin.get("/admin/v1/targets/ada").json()["status"] == "active")
    found = admin.get("/admin/v1/targets/ada").json()["report"]["calibration"]

    assert found["alpha"] == alpha
    assert found["benign_sample"] == len(benign_prompts()) + 1
    assert found["retain_examples"] == 1
    assert found["supported"] is supported
    assert (found["estimated_recall"], found["recall_sample"]) == (None, 1)
    assert any(warning in told for told in found["warnings"])
