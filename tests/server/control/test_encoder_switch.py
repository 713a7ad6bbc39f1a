"""The encoder is one setting: what a real one of another width changes, end to end."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from detectors.classifier import ClassifierTables
from detectors.targets import Example, ForgetTarget
from guard.decision import Verdict
from guard.snapshot import load_snapshot
from guard.vocabulary import Vocabulary
from server.activation import GuardCompiler, SnapshotPublisher
from server.errors import GuardUnavailable
from server.metrics.gateway import GatewayMetrics
from server.policy import Compilation
from server.screening import Screening
from server.settings import Settings

PROMPT = "Who wrote the book of salt?"
TARGETS = (
    ForgetTarget("salt", examples=(Example(PROMPT, "Ilse Moreau."), Example("a?", "Port Sorrel."))),
    ForgetTarget("sea", examples=(Example("Where do the tides begin?", "At Cape Wren."),)),
)


@pytest.fixture
def switched(settings: Settings, other_model: Path) -> Settings:
    """The same settings with another encoder."""
    return settings.model_copy(update={"encoder": str(other_model), "encoder_device": "cpu"})


def _compile(settings: Settings) -> tuple[str, Compilation]:
    with closing(GuardCompiler(settings, "model")) as compiler:
        return compiler.fingerprint, compiler.compile(TARGETS, lambda stage, fraction: None)


def _tables(settings: Settings, compiled: Compilation) -> ClassifierTables:
    snapshot = load_snapshot(settings.snapshots, compiled.digest)
    return ClassifierTables.load(snapshot.arrays("classifier"), snapshot.document("classifier"))


def _bounds(compiled: Compilation) -> dict[str, float]:
    return {
        target: report["calibration"]["thresholds"]["prompt"]["strong"]
        for target, report in compiled.reports.items()
    }


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.01)


def test_another_encoder_takes_over_when_everything_is_encoded_anew(
    settings: Settings, switched: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All vectors, all thresholds, the cache; nothing is decided before the new policy is there."""
    vocabulary = Vocabulary([bytes([byte]) for byte in range(256)])
    monkeypatch.setattr(Vocabulary, "load", lambda model, trust: vocabulary)
    publisher = SnapshotPublisher(settings.state_dir, settings.snapshots)
    before, old = _compile(settings)
    publisher.publish(1, old.digest)

    screening = Screening(switched)
    screening.start(GatewayMetrics(CollectorRegistry(), screening.worker_facts))
    _wait(lambda: "classifier" not in screening.unready())
    _wait(lambda: any(f.failed_generation == 1 for f in publisher.followers()))

    assert "policy" in screening.unready()
    with pytest.raises(GuardUnavailable):
        asyncio.run(screening.screen([PROMPT]))

    after, new = _compile(switched)
    publisher.publish(2, new.digest)
    _wait(lambda: screening.current() is not None)

    assert after != before
    assert "policy" not in screening.unready()
    assert asyncio.run(screening.screen([PROMPT])).verdict is Verdict.STEER
    widths = [_tables(settings, one).embeddings.shape for one in (old, new)]
    assert widths == [(3, 384), (3, 48)]
    assert _bounds(old).keys() == _bounds(new).keys()
    assert all(_bounds(old)[target] != _bounds(new)[target] for target in _bounds(old))
    with closing(sqlite3.connect(settings.cache / "embeddings.db")) as kept:
        lengths = {len(row[0]) for row in kept.execute("SELECT vector FROM embeddings")}
    assert lengths == {4 * 48}
